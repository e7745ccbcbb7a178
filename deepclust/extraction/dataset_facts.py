"""What is known of each data set that has a name, before it is read: what it is, where to get it, how large it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# The default for a user's own photos: the best of the encoders that timm downloads in one file of 350 MB.
FOLDER_ENCODER = "dinov2_vitb14"
# The default encoder of data sets that come as features, where an encoder is asked for without a name.
PIXELS_ENCODER = "efficientnet_lite0"

# What Xiao et al. 2020 made of ImageNet-9's images, by the names of their folders.
BACKGROUNDS: Mapping[str, str] = {
    "original": "as they are",
    "only_fg": "foregrounds alone",
    "no_fg": "foregrounds blacked out",
    "only_bg_b": "foregrounds' boxes blacked out",
    "only_bg_t": "foregrounds' boxes tiled over",
    "mixed_same": "on a background of the same class",
    "mixed_rand": "on a background of a random class",
    "mixed_next": "on a background of the next class",
}


@dataclass(frozen=True)
class DatasetFacts:
    """What is known of a data set before it is read.

    Attributes:
        about: what it is and how to get it, in one line.
        n_train, n_test: images or rows of each split; None where they are the user's own, or there is no such split.
        n_classes: None where they are the user's own, or the train split's number is not published.
        n_test_classes: where the test split has others than the train split, or fewer.
        encoder: the default, for published data sets that of the papers; None where the data come as features.
        needs_path: whether `data.path` must be given.
        labels: the default of `data.labels`: `folders` makes the sub-folders labels.
    """

    about: str
    n_train: int | None = None
    n_test: int | None = None
    n_classes: int | None = None
    encoder: str | None = None
    needs_path: bool = False
    labels: str | None = None
    n_test_classes: int | None = None


def _by_hand(
    about: str,
    n_train: int | None,
    n_test: int | None,
    n_classes: int | None,
    n_test_classes: int | None = None,
) -> DatasetFacts:
    """A published data set that no library downloads."""
    return DatasetFacts(about, n_train, n_test, n_classes, "dino_vitb16", True, n_test_classes=n_test_classes)


def _published(
    about: str, n_train: int, n_test: int | None, n_classes: int, encoder: str = "dino_vitb16", needs_path: bool = False
) -> DatasetFacts:
    return DatasetFacts(about, n_train, n_test, n_classes, encoder, needs_path)


def _from_user(about: str, labels: str | None = None) -> DatasetFacts:
    return DatasetFacts(about, encoder=FOLDER_ENCODER, needs_path=True, labels=labels)


# Every data set that has a name. Sizes are those of the splits that `deepclust.extraction.sources` reads.
DATASETS: Mapping[str, DatasetFacts] = {
    "digits": DatasetFacts(
        "scikit-learn's digits, no download: 64 pixels in [0, 1] as features, or 8 x 8 images for an encoder.",
        1_797, None, 10,
    ),
    "fashion_mnist": DatasetFacts(
        "From Debian's dataset-fashion-mnist, torchvision's download or data.path=FOLDER: pixels as features, or "
        "images for an encoder.",
        60_000, 10_000, 10,
    ),
    "features": DatasetFacts(
        "Your own features: data.train=PATH, a FeatureSet folder or an N x D .npy, .npz or .pt file."
    ),
    "folder": _from_user(
        "Your own images: data.path=FOLDER, searched recursively; data.labels=folders makes the sub-folders labels."
    ),
    "class_folders": _from_user(
        "Your own labeled images: data.path=FOLDER holds train/<class>/ and, if there is one, test/<class>/ or "
        "val/<class>/.",
        labels="folders",
    ),
    "huggingface": _from_user(
        "A folder that `datasets.save_to_disk` wrote: data.path=FOLDER; needs deepclust[huggingface]."
    ),
    "webdataset": _from_user(
        "Tar shards of one split: data.path=PATTERN such as /data/shards/train-*.tar; labels are the .cls members."
    ),
    "cifar10": _published("CIFAR-10; torchvision downloads it, data.path names the folder.", 50_000, 10_000, 10),
    "cifar20": _published(
        "CIFAR-100's 20 superclasses, the \"CIFAR-100\" of TSP's tables; torchvision downloads CIFAR-100.",
        50_000, 10_000, 20,
    ),
    "cifar100": _published("CIFAR-100; torchvision downloads it, data.path names the folder.", 50_000, 10_000, 100),
    "stl10": _published("STL-10; torchvision downloads it; the labeled images train.", 5_000, 8_000, 10),
    "mnist": _published("MNIST; torchvision downloads it, data.path names the folder.", 60_000, 10_000, 10),
    "svhn": _published("Street View House Numbers, cropped digits; torchvision downloads it.", 73_257, 26_032, 10),
    "flowers102": _published(
        "Oxford Flowers; torchvision downloads it; train and val together train.", 2_040, 6_149, 102
    ),
    "fgvc_aircraft": _published(
        "FGVC Aircraft; torchvision downloads it; trainval trains, labels are the 100 variants.", 6_667, 3_333, 100
    ),
    "dtd": _published(
        "Describable Textures; torchvision downloads it; train and val together train.", 3_760, 1_880, 47
    ),
    "eurosat": _published(
        "EuroSAT, satellite images; torchvision downloads it; of its one split 15 % are the test split, as in Lowe et "
        "al.'s code.",
        22_950, 4_050, 10,
    ),
    "stanford_cars": _published(
        "Stanford Cars, to be fetched by hand: data.path=FOLDER holds stanford_cars/ as torchvision expects it.",
        8_144, 8_041, 196, needs_path=True,
    ),
    "inaturalist2021": _published(
        "iNaturalist 2021; torchvision downloads it (224 GB); labels are the species.", 2_686_843, 100_000, 10_000
    ),
    "celeba": DatasetFacts(
        "CelebA, faces; torchvision downloads it; labels are the identities: 8192 train, 1000 others test.",
        162_770, 19_962, 8_192, "dino_vitb16", n_test_classes=1_000,
    ),
    "places365": _published(
        "Places365, scenes; torchvision downloads the standard set of small (256 x 256) images.", 1_803_460, 36_500, 365
    ),
    "lsun": _published(
        "LSUN scene categories, to be fetched by hand: data.path=FOLDER holds <category>_{train,val}_lmdb; needs lmdb.",
        9_869_333, 3_000, 10, needs_path=True,
    ),
    "imagenet": _published(
        "ILSVRC 2012: data.path=FOLDER holds train/<synset>/ and val/<synset>/, or the archives as downloaded.",
        1_281_167, 50_000, 1_000, "mae_refined_vith14", needs_path=True,
    ),
    # Ridnik et al. 2021.
    "imagenet21k": _published(
        "ImageNet-21K, winter 2021, preprocessed: data.path=FOLDER holds train/<synset>/ and val/<synset>/.",
        11_060_223, 522_500, 10_450, "ibot_vitl16", needs_path=True,
    ),
    # Laid out as they are published: deepclust.extraction.layouts reads them. Those of one split have it as `train`.
    "imagenet_v2": _by_hand(
        "ImageNet-v2, matched-frequency (github.com/modestyachts/ImageNetV2): data.path=FOLDER is its folder, with "
        "0/ to 999/.",
        10_000, None, 1_000,
    ),
    "imagenet_o": _by_hand(
        "ImageNet-O (github.com/hendrycks/natural-adv-examples): data.path=FOLDER is imagenet-o, with <synset>/.",
        2_000, None, 200,
    ),
    "imagenet_r": _by_hand(
        "ImageNet-R (github.com/hendrycks/imagenet-r): data.path=FOLDER is imagenet-r, with <synset>/.",
        30_000, None, 200,
    ),
    "imagenet_sketch": _by_hand(
        "ImageNet-Sketch (github.com/HaohanWang/ImageNet-Sketch): data.path=FOLDER is sketch, with <synset>/.",
        50_889, None, 1_000,
    ),
    **{
        f"imagenet9_{variant}": _by_hand(
            f"ImageNet-9, {what} (github.com/MadryLab/backgrounds_challenge): data.path=FOLDER is bg_challenge, with "
            f"{variant}/val/<class>/.",
            4_050, None, 9,
        )
        for variant, what in BACKGROUNDS.items()
    },
    "imagenette": _by_hand(
        "Imagenette, version 2 (github.com/fastai/imagenette): data.path=FOLDER is imagenette2, with train/<synset>/ "
        "and val/<synset>/.",
        9_469, 3_925, 10,
    ),
    "imagewoof": _by_hand(
        "Imagewoof, version 2 (github.com/fastai/imagenette): data.path=FOLDER is imagewoof2, with train/<synset>/ and "
        "val/<synset>/.",
        9_025, 3_929, 10,
    ),
    "nabirds": _by_hand(
        "NABirds (dl.allaboutbirds.org/nabirds): data.path=FOLDER is nabirds, with images/, images.txt, "
        "image_class_labels.txt, train_test_split.txt and classes.txt.",
        23_929, 24_633, 555,
    ),
    # How many images and species train_seen.txt has is not in the papers, nor how many ages UTKFace has in all.
    "bioscan1m": _by_hand(
        "BIOSCAN-1M, insects by species (github.com/bioscan-ml/BIOSCAN-1M): data.path=FOLDER holds "
        "BIOSCAN_Insect_Dataset_metadata.tsv, bioscan/images/cropped_256/part<n>/, train_seen.txt, seen_keys.txt, "
        "test_seen.txt, test_unseen.txt and test_unseen_keys.txt.",
        None, 24_799, None, 2_688,
    ),
    "utkface": _by_hand(
        "UTKFace, faces by age (susanqq.github.io/UTKFace): data.path=FOLDER is UTKFace, with <age>_<gender>_<race>_"
        "<date>.jpg.chip.jpg; every fourth face by age is in the test split, as in Lowe et al.'s code.",
        17_780, 5_925, None, 101,
    ),
    "breakhis": _by_hand(
        "BreakHis, tumors by type and magnification (web.inf.ufpr.br/vri): data.path=FOLDER is BreaKHis_v1, with "
        "histology_slides/breast/; 40 % are the test split, as in Lowe et al.'s code.",
        4_745, 3_164, 32,
    ),
}  # fmt: skip
