"""The models of docs/density.md: (name, split, nats wanted, command).

`benchmarks/density.py --figures` trains and measures them. Hyperparameters were tuned on validation data. The test
split of the static binarisation of MNIST is not at hand everywhere, so its figures are of the validation split, which
is about one nat harder.
"""

_MNIST = "--data binarized_mnist --learning-rate"
_ENSEMBLE = "--ordering random --masks 32 --hidden 500"

_MADE = {
    ("mnist-made-500", "valid", 91.7): f"{_MNIST} 0.004 --hidden 500 --average 0.999 --steps 8000 --eval-every 500",
    ("mnist-made-8000", "valid", 89.4): f"{_MNIST} 0.004 --hidden 8000 --dropout 0.5 --batch-size 200 --steps 5000 "
    "--eval-every 250 --precision bf16",
    ("mnist-made-8000x2", "valid", 87.8): f"{_MNIST} 0.005 --hidden 8000 8000 --masks 32 --units sorted "
    "--dropout 0.5 --hidden-step 0.2 --warmup 500 --batch-size 200 --steps 12000 --eval-every 1000 --eval-size 1000 "
    "--precision bf16",
    ("debd-nltcs", "test", 6.00): "--data debd:nltcs --hidden 512 512 --dropout 0.5 --learning-rate 0.003 "
    "--steps 4000 --eval-every 250",
    ("debd-plants", "test", 12.3): "--data debd:plants --hidden 1000 1000 --dropout 0.5 --learning-rate 0.005 "
    "--steps 8000 --eval-every 500",
    ("debd-mushrooms", "test", 9.75): f"--data debd:mushrooms {_ENSEMBLE} --dropout 0.1 --learning-rate 0.005 "
    "--steps 15000 --eval-every 500",
    ("debd-dna", "test", 78.91): f"--data debd:dna {_ENSEMBLE} --dropout 0.85 --lasso 0.002 --learning-rate 0.004 "
    "--steps 30000 --eval-every 1000",
    ("debd-book", "test", 33.7): f"--data debd:book {_ENSEMBLE} --dropout 0.5 --lasso 0.0003 --learning-rate 0.005 "
    "--steps 6000 --eval-every 500",
    ("debd-jester", "test", 51.4): "--data debd:jester --ordering random --masks 16 --hidden 1000 1000 --dropout 0.2 "
    "--lasso 0.0003 --learning-rate 0.003 --steps 15000 --eval-every 1000",
}
_OTHERS = {
    ("mnist-pixelcnn32", "valid", 84.0): f"pixelcnn {_MNIST} 0.01 --channels 32 --layers 7 --kernel 5 --batch-size 50 "
    "--average 0.999 --precision bf16 --steps 12000 --eval-every 2000 --eval-size 2000",
    ("mnist-transformer", "valid", 84.0): f"transformer {_MNIST} 0.003 --width 64 --depth 4 --heads 2 --batch-size 16 "
    "--warmup 200 --average 0.999 --precision bf16 --steps 6500 --eval-every 1500 --eval-size 1000",
    ("mnist-pixelcnn64", "valid", 84.0): f"pixelcnn {_MNIST} 0.006 --channels 64 --layers 7 --kernel 5 --batch-size 32 "
    "--average 0.99 --precision bf16 --steps 3700 --eval-every 800 --eval-size 500",
    ("mnist-orderless", "valid", 90.0): f"orderless {_MNIST} 0.003 --hidden 1000 1000 --batch-size 200 "
    "--weight-decay 0.1 --average 0.999 --precision bf16 --steps 24000 --eval-every 6000 --eval-size 500",
}
FIGURES: list[tuple[str, str, float, str]] = [
    (
        "mnist-fvsbn", "valid", 98.8,
        f"ptheta train fvsbn {_MNIST} 0.004 --lasso 0.0001 --batch-size 200 --average 0.999 --steps 6000",
    ),
    ("mnist-nade-500", "valid", 89.6, f"ptheta train nade {_MNIST} 0.004 --steps 14000 --eval-every 500"),
    *((*about, f"ptheta train made {options}") for about, options in _MADE.items()),
    *((*about, f"ptheta train {options}") for about, options in _OTHERS.items()),
]  # fmt: skip
