"""Catalogue of published weight files: URL, digest, licence, and the models that use them."""

from dataclasses import dataclass
from pathlib import PurePosixPath

from unsilent.errors import ParameterError, did_you_mean


@dataclass(frozen=True)
class Published:
    """One published file. Exactly one of `md5` and `sha256` is given.

    Attributes:
        name: name on the command line.
        kind: "sampler", "codebook", "vggishish", "melception", "melgan", "melgan_discriminator", "resnet50" or "bninception".
        url: the authors' URL.
        md5: 32 hex digits, as published; it detects damage, but not forgery.
        sha256: 64 hex digits, or the first 8 or more if only those in the file's name are known; PyTorch's own download checks the same
            digits.
        size: in bytes; None if not published.
        approximate_size: in bytes, for progress; None if unknown.
        licence: a sentence, also if no licence is stated.
        presets: rows of `unsilent.presets` that use the file; empty for sound classifiers.
        source: source of these facts.
    """

    name: str
    kind: str
    url: str
    licence: str
    presets: tuple[str, ...]
    source: str
    md5: str | None = None
    sha256: str | None = None
    size: int | None = None
    approximate_size: int | None = None

    def __post_init__(self) -> None:
        assert (self.md5 is None) != (self.sha256 is None), f"{self.name} needs one digest"

    @property
    def digest(self) -> tuple[str, str]:
        """Algorithm, and first hex digits of the digest."""
        return ("md5", self.md5) if self.md5 is not None else ("sha256", self.sha256)

    @property
    def file_name(self) -> str:
        """The last part of the URL."""
        return PurePosixPath(self.url).name

    @property
    def stem(self) -> str:
        """File name without the suffixes, such as `2021-07-30T21-34-25_vggsound_transformer`."""
        return self.file_name.removesuffix(".tar.gz").removesuffix(".pth").removesuffix(".pt")


DESCRIPTIONS = {  # descriptions of kinds
    "sampler": "sampler",
    "codebook": "codebook of mels, with encoder and decoder",
    "vggishish": "sound classifier of the perceptual distance",
    "melception": "sound classifier of FID and MKL",
    "melgan": "vocoder",
    "melgan_discriminator": "discriminator of the vocoder's training",
    "resnet50": "image network",
    "bninception": "image and optical flow network",
}
_A3S = "https://a3s.fi/swift/v1/AUTH_a235c0f452d648828f745589cde1219a/specvqgan_public"
_LICENCE = "MIT is the licence of the SpecVQGAN repository, which links this file; nothing is stated for the weights themselves"
_README = "README of the released SpecVQGAN repository"

# preset → start of its training in 2021 (month-dayThour-minute-second), which is part of the archive's name, and the archive's MD5
_SAMPLERS = {
    "vggsound-nofeats": ("06-20T16-35-20", "b1f9bb63d831611479249031a1203371"),
    "vggsound-1-bninception": ("06-03T11-18-51", "f2fe41dab17e232bd94c6d119a807fee"),
    "vggsound-1-resnet50": ("07-30T21-03-22", "27a61d4b74a72578d13579333ed056f6"),
    "vggsound-5-bninception": ("06-03T09-34-10", "b082d894b741f0d7a1af9c2732bad70f"),
    "vggsound-5-resnet50": ("07-30T21-34-25", "f4d7105811589d441b69f00d7d0b8dc8"),
    "vggsound-212-bninception": ("06-03T07-27-58", "79895ac08303b1536809cad1ec9a7502"),
    "vggsound-212-resnet50": ("07-30T21-34-41", "b222cc0e7aeb419f533d5806a08669fe"),
    "vggsound-class": ("06-03T00-43-28", "98a3788ab973f1c3cc02e2e41ad253bc"),
    "vas-nofeats-vggsound-codebook": ("06-20T16-34-36", "e6b0b5be1f8ac551700f49d29cda50d7"),
    "vas-1-bninception-vggsound-codebook": ("06-03T06-32-51", "a98a124d6b3613923f28adfacba3890c"),
    "vas-1-resnet50-vggsound-codebook": ("07-29T11-47-40", "37cd48f06d74176fa8d0f27303841d94"),
    "vas-5-bninception-vggsound-codebook": ("06-03T05-51-34", "38da002f900fb81275b73e158e919e16"),
    "vas-5-resnet50-vggsound-codebook": ("07-29T11-36-00", "7b6951a33771ef527f1c1b1f99b7595e"),
    "vas-212-bninception-vggsound-codebook": ("06-03T05-38-40", "1c4e56077d737677eac524383e6d98d3"),
    "vas-212-resnet50-vggsound-codebook": ("07-29T11-52-28", "6e553ea44c8bc7a3310961f74e7974ea"),
    "vas-class-vggsound-codebook": ("06-08T14-41-19", "16a816a270f09a76bfd97fe0006c704b"),
    "vas-nofeats": ("06-20T16-24-38", "ea4945802094f826061483e7b9892839"),
    "vas-1-bninception": ("06-09T13-31-37", "8a3adf60baa049a79ae62e2e95014ff7"),
    "vas-1-resnet50": ("07-29T14-59-49", "a7a1342030653945e97f68a8112ed54a"),
    "vas-5-bninception": ("06-09T14-14-24", "4e1b24207780eff26a387dd9317d054d"),
    "vas-5-resnet50": ("07-29T14-51-25", "78b8d42be19dd1b0a346b1f512967302"),
    "vas-212-bninception": ("06-09T15-17-18", "4542632b3c5bfbf827ea7868cedd4634"),
    "vas-212-resnet50": ("07-29T13-34-39", "dc2b5cbd28ad98d2f9ca4329e8aa0f64"),
    "vas-class": ("06-09T09-42-07", "412b01be179c2b8b02dfa0c0b49b9a0f"),
}
# models of the paper whose samplers were never released; retrained samplers use the same other networks
_UNRELEASED = (
    *("vas-212-bninception-class-vggsound-codebook", "vas-212-bninception-class"),  # from the paper's table 4
    *("vggsound-coordinates", "vas-coordinates"),
)
# preset names are repeated here, because the table of presets imports torch
_PAPER = (*_SAMPLERS, *_UNRELEASED)
_OF_VGGSOUND_CODEBOOK = tuple(name for name in _PAPER if name.startswith("vggsound-") or name.endswith("-vggsound-codebook"))


def _sampler(preset: str, started: str, md5: str) -> Published:
    url = f"{_A3S}/models/2021-{started}_{preset.split('-')[0]}_transformer.tar.gz"
    return Published(preset, "sampler", url, _LICENCE, (preset,), _README, md5=md5)


_ROWS = {row.name: row for row in [
    *(_sampler(preset, *row) for preset, row in _SAMPLERS.items()),
    Published(
        "vggsound-codebook", "codebook", f"{_A3S}/models/2021-05-19T22-16-54_vggsound_codebook.tar.gz", _LICENCE,
        _OF_VGGSOUND_CODEBOOK, f"{_README}; size from its issue 38",
        md5="7ea229427297b5d220fb1c80db32dbc5", approximate_size=881_000_000,
    ),
    Published(
        "vas-codebook", "codebook", f"{_A3S}/models/2021-06-06T19-42-53_vas_codebook.tar.gz", _LICENCE,
        tuple(name for name in _PAPER if name not in _OF_VGGSOUND_CODEBOOK), _README,
        md5="0024ad3705c5e58a11779d3d9e97cc8a",
    ),
    Published(
        "vggishish", "vggishish", f"{_A3S}/vggishish16.pt", _LICENCE, (), _README,
        md5="197040c524a07ccacf7715d7080a80bd", approximate_size=1_540_000_000,
    ),
    Published(
        "melception", "melception", f"{_A3S}/melception-21-05-10T09-28-40.pt", _LICENCE, (), _README,
        md5="a71a41041e945b457c7d3d814bbcf72d", approximate_size=270_000_000,
    ),
    # the end of the training; the authors' scripts use best_netG.pt, which is only in their repository
    Published(
        "melgan", "melgan", f"{_A3S}/melgan_ckpt/netG.pt", _LICENCE, _PAPER, f"{_README}; MD5 from its issue 27; size of its tensors",
        md5="e9e3ea89122d31e3dec25f585d215335", approximate_size=17_100_000,
    ),
    Published(
        "melgan-discriminator", "melgan_discriminator", f"{_A3S}/melgan_ckpt/netD.pt", _LICENCE, (),
        f"{_README}; MD5 from its issue 27; size of its tensors",
        md5="e61cd6da221d1d3b423c70c20660361c", approximate_size=67_700_000,
    ),
    Published(
        "resnet50", "resnet50", "https://download.pytorch.org/models/resnet50-0676ba61.pth",
        "BSD-3-Clause is torchvision's, which says that ImageNet's own terms may bind weights trained on it",
        tuple(name for name in _PAPER if "resnet50" in name),
        "torchvision, ResNet50_Weights.IMAGENET1K_V1; full digest from the Nix recipe of a public repository, size as others measured it",
        sha256="0676ba61b6795bbe1773cffd859882e5e297624d384b6993f7c9e683e722fb8a", size=102_530_333,
    ),
    Published(
        "bninception", "bninception", "https://yjxiong.blob.core.windows.net/models/bn_inception-9f5701afb96c8044.pth",
        "nothing is stated for the file; tsn-pytorch, by its author, which loads it, is BSD-2-Clause",
        tuple(name for name in _PAPER if "bninception" in name),
        "tsn-pytorch; the digest is the part that stands in the file's name; size of its tensors",
        sha256="9f5701afb96c8044", approximate_size=45_300_000,
    ),
]}  # fmt: skip
_BY_STEM = {row.stem: row for row in _ROWS.values()}


def names() -> list[str]:
    """Names of all published files, samplers first."""
    return list(_ROWS)


def find(name: str) -> Published:
    """Row of a name.

    Raises:
        ParameterError: if there is none; the message suggests similar names.
    """
    if name not in _ROWS:
        raise ParameterError(f"there is no published file {name!r}; {did_you_mean(name, _ROWS)}`unsilent models` lists all.")
    return _ROWS[name]


def find_by_stem(stem: str) -> Published | None:
    """Row of a file name without suffixes, or of the folder of an unpacked archive; None if there is none."""
    return _BY_STEM.get(stem)
