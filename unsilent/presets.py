"""The table of models: one frozen row for each, with all sizes and their source.

The paper's models are named `<data>-<n features>-<backbone>`. Their rows are never edited; a change is a new row.
"""

from dataclasses import dataclass

from unsilent import labels
from unsilent.clip import Clip
from unsilent.errors import ParameterError, did_you_mean
from unsilent.models.configs import (
    AnySamplerConfig,
    CodebookConfig,
    ConditionConfig,
    MelGANConfig,
    ResidualCodebookConfig,
    ResidualSamplerConfig,
    SamplerConfig,
    TransformerConfig,
    VocosConfig,
)


@dataclass(frozen=True)
class Preset:
    """One model.

    Attributes:
        name: value of `--model`.
        summary: one line for `unsilent models`.
        codebook, sampler, vocoder: sizes of the networks.
        backbone: image network of the condition; None for conditions without features.
        top_k, temperature, guidance, candidates: defaults of sampling; see `request.Request`. The paper calls top-k top-X.
        fid, mkl: fidelity and relevance in the paper (table 3 or 4); None if it does not report them.
        source: origin of the sizes.
    """

    name: str
    summary: str
    codebook: CodebookConfig | ResidualCodebookConfig
    sampler: AnySamplerConfig
    vocoder: MelGANConfig | VocosConfig
    backbone: str | None
    top_k: int
    fid: float | None
    mkl: float | None
    source: str
    temperature: float = 1.0
    guidance: float = 1.0
    candidates: int = 0

    @property
    def clip(self) -> Clip:
        """The grid that all networks of the model share."""
        return self.codebook.clip

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names by the sampler's class numbers; empty for a model without classes, or with class names in its bundle."""
        data = self.name.split("-")[0]
        return labels.classes(data) if self.sampler.condition.n_classes and data in N_CLASSES else ()


VGGSOUND_CODEBOOK = CodebookConfig()
VAS_CODEBOOK = CodebookConfig(n_codes=128)
PAPER_TRANSFORMER = TransformerConfig(layers=24, heads=16, width=1024)
N_CLASSES = {"vggsound": 309, "vas": 8}
# BN-Inception: 1024 values from the frame and 1024 from its optical flow; ResNet-50: 2048 from the frame
PAPER_FEATURE_DIM = 2048

# (sampler's data, codebook's data) → condition → FID and MKL on the sampler's data.
# Table 3, settings (a), (b), (c); the last two rows of table 4. Supplement 6.1.4 describes coordinates and gives no scores.
_PAPER_SCORES = {
    ("vggsound", "vggsound"): {
        "nofeats": (13.5, 9.7), "1-resnet50": (11.5, 7.3), "5-resnet50": (11.3, 7.0), "212-resnet50": (10.5, 6.9),
        "1-bninception": (8.6, 7.7), "5-bninception": (9.4, 7.0), "212-bninception": (9.6, 6.8), "class": (7.8, 5.0),
        "coordinates": (None, None),
    },
    ("vas", "vggsound"): {
        "nofeats": (33.7, 9.6), "1-resnet50": (26.5, 6.7), "5-resnet50": (22.3, 6.5), "212-resnet50": (20.8, 6.2),
        "1-bninception": (38.6, 7.3), "5-bninception": (29.1, 6.9), "212-bninception": (20.5, 6.0), "class": (39.6, 6.7),
        "212-bninception-class": (20.2, 5.7),
    },
    ("vas", "vas"): {
        "nofeats": (28.7, 9.2), "1-resnet50": (25.1, 6.3), "5-resnet50": (20.9, 6.1), "212-resnet50": (22.6, 5.8),
        "1-bninception": (25.1, 6.6), "5-bninception": (24.8, 6.2), "212-bninception": (25.4, 5.9), "class": (23.9, 5.5),
        "212-bninception-class": (24.9, 5.5), "coordinates": (None, None),
    },
}  # fmt: skip


def _paper_row(data: str, codebook_data: str, condition: str, fid: float | None, mkl: float | None) -> Preset:
    suffix = "" if data == codebook_data else f"-{codebook_data}-codebook"
    codebook = VGGSOUND_CODEBOOK if codebook_data == "vggsound" else VAS_CODEBOOK
    n_features, _, network = condition.replace("-class", " and a class").partition("-")
    features = f"{n_features} feature{'' if n_features == '1' else 's'} of {network}"
    given = {"nofeats": "nothing", "class": "a class", "coordinates": "coordinates of time"}.get(condition, features)
    described = "supplement 6.1.4" if fid is None else "table " + ("4" if condition.endswith("n-class") else "3")
    return Preset(
        name=f"{data}-{condition}{suffix}",
        summary=f"sampler of {data}, codebook of {codebook_data}, conditioned on {given}",
        codebook=codebook,
        sampler=SamplerConfig(
            clip=codebook.clip, codes=codebook.n_codes, transformer=PAPER_TRANSFORMER, condition=_paper_condition(data, condition)
        ),
        vocoder=MelGANConfig(),
        backbone=next((name for name in ("resnet50", "bninception") if name in condition), None),
        top_k=codebook.n_codes // 2,
        fid=fid,
        mkl=mkl,
        source=f"paper {described}; released configs",
    )


def _paper_condition(data: str, condition: str) -> ConditionConfig:
    if condition == "nofeats":
        return ConditionConfig(kind="none", n_features=1, feature_dim=PAPER_FEATURE_DIM)
    if condition == "class":
        return ConditionConfig(kind="class", n_classes=N_CLASSES[data])
    if condition == "coordinates":
        return ConditionConfig(kind="coordinates")
    n_features = int(condition.split("-")[0])
    if condition.endswith("-class"):
        kind, n_classes = "features+class", N_CLASSES[data]
    else:
        kind, n_classes = "features", 0
    return ConditionConfig(kind=kind, n_features=n_features, feature_dim=PAPER_FEATURE_DIM, n_classes=n_classes)


_EVERYDAY_CODEBOOK = ResidualCodebookConfig()
EVERYDAY = Preset(
    name="everyday",
    summary="small default, part of the package; conditioned on recognised pictures or a label, and on impacts",
    codebook=_EVERYDAY_CODEBOOK,
    sampler=ResidualSamplerConfig(
        clip=_EVERYDAY_CODEBOOK.clip,
        codes=_EVERYDAY_CODEBOOK.n_codes,
        dim=_EVERYDAY_CODEBOOK.dim,
        transformer=TransformerConfig(layers=6, heads=6, width=384),
        inner=320,
        inner_blocks=2,
        condition=ConditionConfig(kind="sight", n_features=27, feature_dim=1280, n_classes=234, motion=8),
    ),
    vocoder=VocosConfig(width=320, hidden=960, n_blocks=8),
    backbone="efficientnet-lite0",
    top_k=_EVERYDAY_CODEBOOK.n_codes,
    fid=None,
    mkl=None,
    source="runs/everyday",
    guidance=3.0,  # chosen by measurement, like temperature and candidates; see LOG.md
    temperature=0.8,
    candidates=12,
)

_SMALL_CODEBOOK = CodebookConfig(n_codes=512, dim=128, channels=16, multipliers=(1, 2, 4, 4, 8))
SMALL = Preset(
    name="small",
    summary="the paper's design, small enough to train on two cores",
    codebook=_SMALL_CODEBOOK,
    sampler=SamplerConfig(
        clip=_SMALL_CODEBOOK.clip,
        codes=_SMALL_CODEBOOK.n_codes,
        transformer=TransformerConfig(layers=6, heads=4, width=256),
        condition=ConditionConfig(kind="columns", n_features=27, feature_dim=1280, motion=8),
    ),
    vocoder=VocosConfig(width=320, hidden=960, n_blocks=8),
    backbone="efficientnet-lite0",
    top_k=_SMALL_CODEBOOK.n_codes,
    fid=None,
    mkl=None,
    source="runs/small",
    guidance=3.0,
    temperature=0.8,
)

_SMOKE_CODEBOOK = CodebookConfig(clip=Clip(frames=192), n_codes=64, dim=32, channels=8, multipliers=(1, 1, 2, 2, 4), n_blocks=1)
SMOKE = Preset(
    name="smoke",
    summary="tiny, for trial trainings on synthetic clips of two seconds",
    codebook=_SMOKE_CODEBOOK,
    sampler=SamplerConfig(
        clip=_SMOKE_CODEBOOK.clip,
        codes=_SMOKE_CODEBOOK.n_codes,
        transformer=TransformerConfig(layers=2, heads=4, width=64),
        condition=ConditionConfig(kind="columns", n_features=6, feature_dim=1280, motion=8),
    ),
    vocoder=VocosConfig(clip=_SMOKE_CODEBOOK.clip, width=64, hidden=128, n_blocks=2),
    backbone="efficientnet-lite0",
    top_k=8,
    fid=None,
    mkl=None,
    source="runs/smoke",
    guidance=2.0,
)

_ROWS = {row.name: row for row in [
    EVERYDAY,
    *(_paper_row(data, book, condition, *scores) for (data, book), rows in _PAPER_SCORES.items() for condition, scores in rows.items()),
    SMALL,
    SMOKE,
]}  # fmt: skip
_TRIALS = {SMALL.name, SMOKE.name}


def names() -> list[str]:
    """Names of the models for users, the default first: all rows except those for trial trainings."""
    return [name for name in _ROWS if name not in _TRIALS]


def all_names() -> list[str]:
    """Names of all rows, including those for trial trainings."""
    return list(_ROWS)


def get(name: str) -> Preset:
    """The row of a name.

    Raises:
        ParameterError: if there is none; the message suggests similar names.
    """
    if name not in _ROWS:
        raise ParameterError(f"there is no model {name!r}; {did_you_mean(name, _ROWS)}`unsilent models` lists all.")
    return _ROWS[name]
