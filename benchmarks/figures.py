"""The models of docs/density.md: (name, split, nats wanted, command).

`benchmarks/density.py --figures` trains and measures them. Hyperparameters were tuned on validation data. The test split
of the static binarisation of MNIST is not at hand everywhere, so its figures are of the validation split, about one nat
harder.
"""

_MNIST = "--data binarized_mnist"
_ENSEMBLE = "--ordering random --masks 32"

FIGURES: list[tuple[str, str, float, str]] = [
    ("mnist-fvsbn", "valid", 98.8, f"ptheta train fvsbn {_MNIST} --learning-rate 0.004 --steps 10000"),
    (
        "mnist-made-500", "valid", 91.7,
        f"ptheta train made {_MNIST} --hidden 500 --learning-rate 0.004 --average 0.999 --steps 8000 --eval-every 500",
    ),
    (
        "mnist-made-8000", "valid", 89.4,
        f"ptheta train made {_MNIST} --hidden 8000 --dropout 0.5 --learning-rate 0.004 --batch-size 200 --precision bf16 "
        "--steps 5000 --eval-every 250",
    ),
    (
        "mnist-made-8000x2", "valid", 87.8,
        f"ptheta train made {_MNIST} --hidden 8000 8000 --masks 32 --dropout 0.2 --learning-rate 0.003 --batch-size 400 "
        "--precision bf16 --steps 6000 --eval-every 500 --eval-size 400",
    ),
    ("mnist-nade-500", "valid", 89.6, f"ptheta train nade {_MNIST} --learning-rate 0.004 --steps 14000 --eval-every 500"),
    (
        "debd-nltcs", "test", 6.00,
        "ptheta train made --data debd:nltcs --hidden 512 512 --dropout 0.5 --learning-rate 0.003 --steps 4000",
    ),
    (
        "debd-plants", "test", 12.3,
        "ptheta train made --data debd:plants --hidden 1000 1000 --dropout 0.5 --learning-rate 0.005 --steps 8000",
    ),
    (
        "debd-mushrooms", "test", 9.75,
        f"ptheta train made --data debd:mushrooms {_ENSEMBLE} --hidden 500 --dropout 0.1 --learning-rate 0.005 "
        "--steps 15000",
    ),
    (
        "debd-dna", "test", 82.5,
        f"ptheta train made --data debd:dna {_ENSEMBLE} --hidden 500 --dropout 0.5 --learning-rate 0.002 --steps 5000",
    ),
]  # fmt: skip
