"""The sets that have a name: addresses, checksums, sizes, and how they are made binary and split.

`digits` is part of the package (digits.npz: scikit-learn's copy, values 0 to 16);
the others are found or downloaded when a split is first asked for.
"""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from ptheta.data.binary import SPLIT_SEED, BinaryData, Parts
from ptheta.data.fetch import RemoteFile, find, find_or_fetch
from ptheta.data.formats import SPLITS, read_idx, read_text
from ptheta.engine.errors import InputError, unknown

# The .gz files as the mirrors hold them: SHA-256, bytes.
IDX_FILES = {
    "mnist": {
        "train-images-idx3-ubyte.gz": ("440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609", 9912422),
        "train-labels-idx1-ubyte.gz": ("3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c", 28881),
        "t10k-images-idx3-ubyte.gz": ("8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6", 1648877),
        "t10k-labels-idx1-ubyte.gz": ("f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6", 4542),
    },
    "fashion_mnist": {
        "train-images-idx3-ubyte.gz": ("3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84", 26421880),
        "train-labels-idx1-ubyte.gz": ("a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845", 29515),
        "t10k-images-idx3-ubyte.gz": ("346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073", 4422102),
        "t10k-labels-idx1-ubyte.gz": ("67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5", 5148),
    },
}
IDX_MIRRORS = {
    "mnist": (
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
    ),
    "fashion_mnist": ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
}
IDX_ORIGIN = {
    "mnist": "MNIST (Y. LeCun, C. Cortes, C. Burges; from NIST Special Databases 1 and 3)",
    "fashion_mnist": "Fashion-MNIST (Zalando SE, MIT licence)",
}
SAMPLED = {f"sampled_{name}": name for name in IDX_FILES}  # each pixel drawn once, 1 with probability grey/255
IDX_COUNT = {"train": 60_000, "t10k": 10_000}
IDX_VALID = 10_000  # the last of the training file

# Rows, SHA-256, bytes of the .amat text.
BINARIZED_MNIST = {
    "train": (50_000, "ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d", 78_400_000),
    "valid": (10_000, "1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2", 15_680_000),
    "test": (10_000, "e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c", 15_680_000),
}
BINARIZED_MNIST_URL = "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/"

# Columns; then by split rows, SHA-256 of the .data text.
DEBD = {
    "nltcs": (
        16,
        {
            "train": (16_181, "e547a7aedad1dd2f7177030881ab1b92c7e24ae5464c71a0f1f89daecaf52b30"),
            "valid": (2_157, "93bbbf5c6febdc9bc6e5b5bfab636f4dc0685ab2896d24b23dd267794c3bfcf6"),
            "test": (3_236, "f9ffa6b74b27dc03bee3203d157ee31079e80b13be40d0c0093d635c25aed523"),
        },
    ),
    "plants": (
        69,
        {
            "train": (17_412, "1fb1219ff94068d12a563f9e81f8889a1885f41e867884cff608669300c6848f"),
            "valid": (2_321, "47834ed318b2d74f48e4b083226ef47fd446d41986012ceae19d230574821b34"),
            "test": (3_482, "95f53c033cd1d86467aec2610dc5bfe014534206c2da4919f73bcab246ab8755"),
        },
    ),
    "jester": (
        100,
        {
            "train": (9_000, "dd93578c3359d5b234bb278bf0901c5215d83b910f7d51d7c91951a0a4c244cd"),
            "valid": (1_000, "91df833941e189265345898d3f63211560c2456df599f34beee8e95381ee7524"),
            "test": (4_116, "346044fb561cf18f284f7e9d5896178b03048991b6ebb6f7482885fccbc16082"),
        },
    ),
    "mushrooms": (
        112,
        {
            "train": (2_000, "465c712c066bbbee3ccceded24bbe42b4c379df67b524e28cce9bf3a8b83f27b"),
            "valid": (500, "5a067e6854df71623415e6adc8e913cbff766637a324788882ba800907aa5385"),
            "test": (5_624, "313c5f04b5d0a18bee2f2ffa264be265d09f5362aad6f714637acd9552f81aa0"),
        },
    ),
    "dna": (
        180,
        {
            "train": (1_600, "bb8de0ca4b6ad9b610036b7a302962ebecd4b504354b14c02c7d0bee48d207d9"),
            "valid": (400, "4b0fc89cda5eaf5c75926e281afb6af99de194a546070d5b81b524ba251f4f3f"),
            "test": (1_186, "fec3ae7b26804020a9c43c99828441c5e08bb76b23719368a74ad2b09af99100"),
        },
    ),
    "book": (
        500,
        {
            "train": (8_700, "e2458d1db3b9f2ad74a4034dee19c72213d20bd246a51750ef728041e130b6a7"),
            "valid": (1_159, "a111d7a024f88b062c60431306ad521dec64ec6cc2a2bca10503da647d1f0aaf"),
            "test": (1_739, "94e7ec33fe7a84b4a92f248d8f0c0e35143f3cd56f5a609f4311c38218e420b9"),
        },
    ),
}
DEBD_URL = "https://raw.githubusercontent.com/arranger1044/DEBD/master/datasets/"


def names() -> tuple[str, ...]:
    """Every name that `load` knows."""
    return ("digits", *IDX_FILES, *SAMPLED, "binarized_mnist", *(f"debd:{name}" for name in DEBD))


def load(name: str, threshold: float) -> BinaryData | None:
    """The set of this name, None if there is none; UsageError for `debd:` and an unknown name."""
    if name == "digits":
        return _digits(threshold)
    if name in IDX_FILES:
        return _idx(name, threshold)
    if name in SAMPLED:
        return _idx(name, None)
    if name == "binarized_mnist":
        return _binarized_mnist()
    return _debd(name) if name.startswith("debd:") else None


def _digits(threshold: float) -> BinaryData:
    origin = (
        "the 1,797 handwritten digits of 8x8 pixels (0 to 16) that scikit-learn carries: Optical Recognition of "
        "Handwritten Digits, E. Alpaydin and C. Kaynak, UCI Machine Learning Repository, CC BY 4.0; "
        f"1 where the value is at least {16 * threshold:g}; split 1,257/270/270 by a fixed permutation "
        f"(seed {SPLIT_SEED})."
    )
    read = partial(_read_digits, threshold)
    parts = [*SPLITS, *(f"{split}_labels" for split in SPLITS)]
    return BinaryData("digits", 64, (8, 8), origin, dict.fromkeys(parts, read))


def _read_digits(threshold: float) -> Parts:
    with np.load(Path(__file__).with_name("digits.npz"), allow_pickle=False) as stored:
        pixels, labels = stored["pixels"], stored["labels"]
    order = np.random.RandomState(SPLIT_SEED).permutation(len(pixels))
    parts: Parts = {}
    for split, chosen in zip(SPLITS, np.split(order, [1257, 1527]), strict=True):
        parts[split] = pixels[chosen] >= 16 * threshold
        parts[f"{split}_labels"] = labels[chosen]
    return parts


def _idx(spec: str, threshold: float | None) -> BinaryData:
    name = SAMPLED.get(spec, spec)
    how = (
        f"each pixel drawn once, 1 with probability grey/255 (seed {SPLIT_SEED})"
        if threshold is None
        else f"1 where the pixel exceeds {255 * threshold:g} of 255"
    )
    origin = (
        f"{IDX_ORIGIN[name]}, {how}; "
        "train and valid are the first 50,000 and the last 10,000 of the training file, test its 10,000."
    )
    readers: dict[str, Callable[[], Parts]] = {
        "train": partial(_read_idx_images, name, "train", threshold),
        "test": partial(_read_idx_images, name, "t10k", threshold),
        "train_labels": partial(read_idx_labels, name, "train"),
        "test_labels": partial(read_idx_labels, name, "t10k"),
    }
    # One file holds both, so whichever is asked for first brings the other.
    readers |= {"valid": readers["train"], "valid_labels": readers["train_labels"]}
    return BinaryData(spec, 784, (28, 28), origin, readers)


def idx_path(name: str, file: str) -> Path:
    """One of the four files of an MNIST-like set, on this machine."""
    sha256, size = IDX_FILES[name][file]
    return find_or_fetch(RemoteFile(name, file, tuple(mirror + file for mirror in IDX_MIRRORS[name]), sha256, size))


def _read_idx_images(name: str, half: str, threshold: float | None) -> Parts:
    pixels = read_idx(idx_path(name, f"{half}-images-idx3-ubyte.gz"), (IDX_COUNT[half], 28, 28))
    pixels = pixels.reshape(len(pixels), -1)
    if threshold is None:  # RandomState, because its numbers are promised never to change
        drawn = np.random.RandomState([SPLIT_SEED, IDX_COUNT[half]]).randint(0, 255, pixels.shape, np.uint8)
        return _halves(half, pixels > drawn, "")
    return _halves(half, pixels > 255 * threshold, "")


def read_idx_labels(name: str, half: str) -> Parts:
    """The labels of the training file (as train and valid) or of the test file, "t10k"."""
    return _halves(half, read_idx(idx_path(name, f"{half}-labels-idx1-ubyte.gz"), (IDX_COUNT[half],)), "_labels")


def _halves(half: str, values: np.ndarray, suffix: str) -> Parts:
    if half == "t10k":
        return {f"test{suffix}": values}
    return {f"train{suffix}": values[:-IDX_VALID], f"valid{suffix}": values[-IDX_VALID:]}


def _binarized_mnist() -> BinaryData:
    origin = (
        "MNIST made binary once by sampling each pixel (R. Salakhutdinov and I. Murray 2008; files of H. Larochelle); "
        "the files' own split of 50,000/10,000/10,000."
    )
    readers = {}
    for split, (count, sha256, size) in BINARIZED_MNIST.items():
        name = f"binarized_mnist_{split}.amat"
        file = RemoteFile("binarized_mnist", name, (BINARIZED_MNIST_URL + name,), sha256, size)
        readers[split] = partial(_read_remote_text, file, split, (count, 784))
    return BinaryData("binarized_mnist", 784, (28, 28), origin, readers)


def _read_remote_text(file: RemoteFile, split: str, shape: tuple[int, int]) -> Parts:
    path = find_or_fetch(file)
    values, _ = read_text(path)
    if values.shape != shape:
        got = "{:,} rows of {} values".format(*values.shape)
        raise InputError(f"{path} holds {got}; expected {shape[0]:,} of {shape[1]}: it is cut short or another file")
    return {split: values}


def _debd(spec: str) -> BinaryData:
    name = spec.removeprefix("debd:")
    origin = "a set of the DEBD collection (github.com/arranger1044/DEBD; D. Lowd and J. Davis 2010, J. Van Haaren and "
    origin += "J. Davis 2012; licences vary), comma-separated 0/1, in the collection's own split."
    if name in DEBD:
        columns, splits = DEBD[name]
        readers = {}
        for split, (count, sha256) in splits.items():
            file = f"{name}.{split}.data"
            remote = RemoteFile(f"debd/{name}", file, (f"{DEBD_URL}{name}/{file}",), sha256, 2 * columns * count)
            readers[split] = partial(_read_remote_text, remote, split, (count, columns))
        return BinaryData(spec, columns, None, origin, readers)
    safe = re.fullmatch(r"\w[\w.-]*", name) is not None  # part of a path
    paths = {split: find(f"debd/{name}", f"{name}.{split}.data") for split in SPLITS if safe}
    found = {split: path for split, path in paths.items() if path}
    if "train" not in found:
        place = f"debd/{name}/{name}.train.data" if safe else "debd/NAME/NAME.train.data"
        fix = f"Another set of the collection can be placed as {place} in the folder that PTHETA_DATA names."
        raise unknown("debd set", name, DEBD, fix)
    train, _ = read_text(found["train"])
    readers = {split: partial(_read_local_text, path, split) for split, path in found.items()}
    return BinaryData(spec, train.shape[1], None, origin, readers)


def _read_local_text(path: Path, split: str) -> Parts:
    return {split: read_text(path)[0]}
