"""Environment steps a second of Stable-Baselines3 and sb3-contrib, run in an environment of their own.

    python control_peer.py METHOD ENV ENVS STEPS THREADS     prints one JSON object

With their own defaults, but for the network and the minibatch of ddpg, which are given the sizes of ours, and for the
number of environments. The steps before the first update, and what is built, are not counted.
"""

import json
import sys
import time

import gymnasium
import torch
from stable_baselines3.common.env_util import make_vec_env

name, env, envs, steps, threads = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])
torch.set_num_threads(threads)

if name == "trpo":
    from sb3_contrib import TRPO as Method
elif name == "a2c":
    from stable_baselines3 import A2C as Method
else:
    from stable_baselines3 import DDPG as Method

world = make_vec_env(env, n_envs=envs, seed=0) if envs > 1 else gymnasium.make(env)
options = {"device": "cpu", "seed": 0}
if name == "ddpg":
    options |= {"policy_kwargs": {"net_arch": [256, 256]}, "batch_size": 256, "learning_starts": 100}
    options |= {"train_freq": 1, "gradient_steps": 1, "learning_rate": 1e-3, "tau": 0.005}
model = Method("MlpPolicy", world, **options)
first = 300 if name == "ddpg" else max(2 * envs * getattr(model, "n_steps", 1), 200)
model.learn(first)
before = model.num_timesteps
began = time.perf_counter()
model.learn(steps, reset_num_timesteps=False)
seconds = time.perf_counter() - began
print(json.dumps({"steps_per_s": (model.num_timesteps - before) / seconds}))
