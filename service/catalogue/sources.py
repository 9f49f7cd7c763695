"""Where datasets may come from, and which of them need a location inside the operator's allowed roots."""

SOURCES: dict[str, str] = {
    "sklearn:digits": "scikit-learn's 1,797 handwritten digits, 8×8; sample IDs are `digits/<index>`.",
    "torchvision:FashionMNIST": "IDX files under `root`, plain or gzipped; sample IDs are `<split>/<index>`.",
    "npz": "A NumPy archive at `path` with arrays sample_id, image (uint8 NHWC or NHW), label, split.",
}
ROOT_SOURCES = ("torchvision:FashionMNIST",)
FILE_SOURCES = ("npz",)
