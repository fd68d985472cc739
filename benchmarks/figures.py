"""The models of docs/density.md: (name, split, nats wanted, command).

`benchmarks/density.py --figures` trains and measures them. Hyperparameters were tuned on validation data. The test split
of the static binarisation of MNIST is not at hand everywhere, so its figures are of the validation split, which is about
one nat harder.
"""

MNIST = "ptheta train {} --data binarized_mnist"

FIGURES: list[tuple[str, str, float, str]] = [
    ("mnist-fvsbn", "valid", 98.8, MNIST.format("fvsbn") + " --learning-rate 0.004 --steps 10000"),
    (
        "mnist-made-500",
        "valid",
        91.7,
        MNIST.format("made") + " --hidden 500 --learning-rate 0.004 --dropout 0.1 --steps 10000",
    ),
]
