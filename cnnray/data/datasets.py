"""The public data sets that `cnnray data fetch` brings: where they lie, how they are checked, what they become.

md5 and most URLs are torchvision's (a test compares them); LFW's archives lie where scikit-learn finds them since its
first home is often gone; CIFAR-10 is taken in its binary form, whose md5 its page states, as the other is a pickle.
Sizes and sha256 are those that TensorFlow Datasets publishes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cnnray.data.dataset_layouts import Counts, lay_out_cifar, lay_out_flowers, lay_out_lfw, lay_out_pets, lay_out_voc
from cnnray.errors import UnknownNameError

_OXFORD = "https://www.robots.ox.ac.uk/~vgg/data"
_VOC = "https://thor.robots.ox.ac.uk/pascal/VOC"
_FIGSHARE, _LFW = "https://ndownloader.figshare.com/files", "http://vis-www.cs.umass.edu/lfw"


@dataclass(frozen=True, kw_only=True)
class Archive:
    """A file to download.

    Attributes:
        name: under which it is kept.
        urls: where it lies, in the order in which they are tried.
        num_bytes: its size.
        md5, sha256: of its content, hexadecimal; both are checked.
    """

    name: str
    urls: tuple[str, ...]
    num_bytes: int
    md5: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """A public data set.

    Attributes:
        name: on the command line, and of its folder.
        archives: in the order in which `lay_out` takes them.
        unpacked_bytes: about what its folder takes on a disk.
        lay_out: writes the folder from paths of the archives; its third argument bounds what an archive may hold, in
            bytes; see `cnnray.data.dataset_layouts`.
        commands: what can be done with it; {out} stands for its folder.
        licence, citation: what its authors say and ask for.
    """

    name: str
    archives: tuple[Archive, ...]
    unpacked_bytes: int
    lay_out: Callable[[Sequence[Path], Path, int], Counts]
    commands: tuple[str, ...]
    licence: str
    citation: str


def find_dataset(name: str) -> DataSet:
    """The data set of this name.

    Raises:
        UnknownNameError: there is none; lists the known ones.
    """
    if name not in DATASETS:
        raise UnknownNameError("data set", name, DATASETS)
    return DATASETS[name]


_FLOWERS = DataSet(
    name="flowers102",
    archives=(
        Archive(
            name="102flowers.tgz",
            urls=(f"{_OXFORD}/flowers/102/102flowers.tgz",),
            num_bytes=344_862_509,
            md5="52808999861908f626f3c1f4e79d11fa",
            sha256="2d01ecc807db462958cfe3d92f57a8c252b4abd240eb955770201e45f783b246",
        ),
        Archive(
            name="imagelabels.mat",
            urls=(f"{_OXFORD}/flowers/102/imagelabels.mat",),
            num_bytes=502,
            md5="e0620be6f572b9609742df49c70aed4d",
            sha256="4903e94206bac23bf772aadf06451916df56b58fc483a62db32a97b82656651d",
        ),
        Archive(
            name="setid.mat",
            urls=(f"{_OXFORD}/flowers/102/setid.mat",),
            num_bytes=14_989,
            md5="a5357ecc9cb78c4bef273ce3793fc85c",
            sha256="46b8678f91fd95d3c8f4feab80d271a6c834a1dd896fe29fd3e6ad9ce5c8dccd",
        ),
    ),
    unpacked_bytes=370_000_000,
    lay_out=lay_out_flowers,
    commands=("cnnray features build {out} --out runs/flowers102",),
    licence="none is stated; the photos are from the web",
    citation=(
        "M.-E. Nilsback, A. Zisserman: Automated Flower Classification over a Large Number of Classes. Indian "
        "Conference on Computer Vision, Graphics and Image Processing (2008)"
    ),
)

_PETS = DataSet(
    name="oxford_iiit_pet",
    archives=(
        Archive(
            name="images.tar.gz",
            urls=(f"{_OXFORD}/pets/data/images.tar.gz",),
            num_bytes=791_918_971,
            md5="5c4f3ee8e5d25df40f4fd59a7f44e54c",
            sha256="67195c5e1c01f1ab5f9b6a5d22b8c27a580d896ece458917e61d459337fa318d",
        ),
        Archive(
            name="annotations.tar.gz",
            urls=(f"{_OXFORD}/pets/data/annotations.tar.gz",),
            num_bytes=19_173_078,
            md5="95a8c909bbe2e81eed6a22bccdf3f68f",
            sha256="52425fb6de5c424942b7626b428656fcbd798db970a937df61750c0f1d358e91",
        ),
    ),
    unpacked_bytes=870_000_000,
    lay_out=lay_out_pets,
    commands=(
        "cnnray features build {out}/classify --out runs/pets",
        'cnnray train segment {out}/segment/train --classes "background=2,pet=1,ignore=3" --out runs/pet-masks',
    ),
    licence="CC BY-SA 4.0; the photos belong to their makers",
    citation="O. M. Parkhi, A. Vedaldi, A. Zisserman, C. V. Jawahar: Cats and Dogs. CVPR (2012)",
)


def _voc(year: int, archives: tuple[Archive, ...], unpacked_bytes: int) -> DataSet:
    """The challenge of a year."""
    return DataSet(
        name=f"voc{year}",
        archives=archives,
        unpacked_bytes=unpacked_bytes,
        lay_out=partial(lay_out_voc, f"VOC{year}"),
        commands=("cnnray data inspect {out}", f"cnnray train detect {{out}} --out runs/voc{year}"),
        licence="the photos are from Flickr, whose terms of use hold for them",
        citation=(
            "M. Everingham, L. Van Gool, C. K. I. Williams, J. Winn, A. Zisserman: The PASCAL Visual Object Classes "
            "(VOC) Challenge. International Journal of Computer Vision 88 (2010)"
        ),
    )


_VOC_2007 = _voc(
    2007,
    (
        Archive(
            name="VOCtrainval_06-Nov-2007.tar",
            urls=(f"{_VOC}/voc2007/VOCtrainval_06-Nov-2007.tar",),
            num_bytes=460_032_000,
            md5="c52e279531787c972589f7e41ab4ae64",
            sha256="7d8cd951101b0957ddfd7a530bdc8a94f06121cfc1e511bb5937e973020c7508",
        ),
        Archive(
            name="VOCtest_06-Nov-2007.tar",
            urls=(f"{_VOC}/voc2007/VOCtest_06-Nov-2007.tar",),
            num_bytes=451_020_800,
            md5="b6e924de25625d8de591ea690078ad9f",
            sha256="6836888e2e01dca84577a849d339fa4f73e1e4f135d312430c4856b5609b4892",
        ),
    ),
    960_000_000,
)

_VOC_2012 = _voc(
    2012,
    (
        Archive(
            name="VOCtrainval_11-May-2012.tar",
            urls=(f"{_VOC}/voc2012/VOCtrainval_11-May-2012.tar",),
            num_bytes=1_999_639_040,
            md5="6cd6e144f989b92b3379bac3b3de84fd",
            sha256="e14f763270cf193d0b5f74b169f44157a4b0c6efa708f4dd0ff78ee691763bcb",
        ),
    ),
    2_100_000_000,
)

_LFW_PEOPLE = DataSet(
    name="lfw_people",
    archives=(
        Archive(
            name="lfw.tgz",
            urls=(f"{_FIGSHARE}/5976018", f"{_LFW}/lfw.tgz"),
            num_bytes=180_566_744,
            md5="a17d05bd522c52d84eca14327a23d494",
            sha256="055f7d9c632d7370e6fb4afc7468d40f970c34a80d4c6f50ffec63f5a8d536c0",
        ),
        Archive(
            name="pairs.txt",
            urls=(f"{_FIGSHARE}/5976006", f"{_LFW}/pairs.txt"),
            num_bytes=155_335,
            md5="9f1ba174e4e1c508ff7cdf10ac338a7d",
            sha256="ea42330c62c92989f9d7c03237ed5d591365e89b3e649747777b70e692dc1592",
        ),
    ),
    unpacked_bytes=220_000_000,
    lay_out=lay_out_lfw,
    commands=(
        "cnnray evaluate faces {out} --pairs {out}/pairs.txt --out runs/lfw",
        "cnnray train faces {out} --out runs/lfw-embedder",
    ),
    licence="none is stated; for research: its authors warn of any conclusion for commercial use",
    citation=(
        "G. B. Huang, M. Ramesh, T. Berg, E. Learned-Miller: Labeled Faces in the Wild: A Database for Studying Face "
        "Recognition in Unconstrained Environments. University of Massachusetts, Amherst, report 07-49 (2007)"
    ),
)

_CIFAR_10 = DataSet(
    name="cifar10",
    archives=(
        Archive(
            name="cifar-10-binary.tar.gz",
            urls=("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
            num_bytes=170_052_171,
            md5="c32a1d4ab5d03f1284b67883e8d87530",
            sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        ),
    ),
    unpacked_bytes=250_000_000,
    lay_out=lay_out_cifar,
    commands=("cnnray train finetune {out} --backbone residual --weights none --size 32 --out runs/cifar10",),
    licence="none is stated; the pictures are from the web",
    citation="A. Krizhevsky: Learning Multiple Layers of Features from Tiny Images. University of Toronto (2009)",
)

DATASETS = {entry.name: entry for entry in (_FLOWERS, _PETS, _VOC_2007, _VOC_2012, _LFW_PEOPLE, _CIFAR_10)}
