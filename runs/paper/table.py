"""The paper's tables 1 to 5 and figures 4 to 20: at full size from VGGSound and VAS, or at small scale from the everyday data.

    python runs/paper/table.py 3 --print                       # prints the commands at full size; without --print, runs them
    python runs/paper/table.py 3 17 fig4 --everyday MATERIAL   # several at small scale

All results stay in work/paper (or work/paper-small), so that an interrupted run resumes. README.md in this folder has the times.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = Path(os.path.relpath(Path(__file__).parent))
COMMANDS = {"unsilent": [str(Path(sys.executable).with_name("unsilent"))], "python": [sys.executable], "sed": ["sed"]}
Command = tuple[object, ...]

# For each setting of table 3: data set, suffix of the models' names, samples per clip.
SETTINGS = {"a": ("vggsound", "", 10), "b": ("vas", "-vggsound-codebook", 100), "c": ("vas", "", 100)}
CONDITIONS = ("nofeats", *(f"{n}-{network}" for network in ("resnet50", "bninception") for n in (1, 5, 212)))
WHICH = ("1", "2", "3", "4", "5", "fig4", "fig5", "fig6", "fig7", "fig8", "fig9", *map(str, range(10, 21)), "prepare")
SPLITS = {"vggsound": "test", "vas": "valid"}
ALL = ("--preset", "vggsound-5-resnet50", "--keep-silent")  # clips of the paper's length, silent ones among them
TOP_X = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
MOST_SHOWN = 24  # maximum clips generated for figures of random clips
SMALL_STEPS = 30  # of each training for the small tables, which only test the commands
SHORT = (f"steps={SMALL_STEPS}", f"decay_steps={SMALL_STEPS // 3}", f"warmup_steps={SMALL_STEPS // 6}")
SMALL_SOUNDS = 24  # sounds in the small table 2
SMALL_TOP_X = (1, 8, 64, 512)
SMALL_CONDITIONS = ("features", "class", "features+class")  # conditions of the samplers in the small table 4 and figure 19


@dataclass(frozen=True)
class Full:
    """Commands at full size: all of VGGSound and VAS, with the published models."""

    out: Path
    parallel: Command

    def manifest(self, data: str) -> Command:
        """Write the manifest of a data set, with the authors' splits."""
        names = ("train", "valid", "test") if data == "vggsound" else ("train", "valid")
        lists = [part for split in names for part in ("--list", f"{split}=data/{data}_{split}.txt")]
        return "unsilent", "data", "manifest", f"data/{data}", "-o", self.out / f"{data}.parquet", *ALL, *lists

    def sample(self, data: str, model: str, n_samples: int, *more: object, out: str = "") -> Command:
        """Generate a folder of samples."""
        options = ("--model", model, "--samples", n_samples, "--split", SPLITS[data], "--precision", "float32", *more, *self.parallel)
        return "unsilent", "sample", self.out / f"{data}.parquet", "-o", self.out / "samples" / (out or model), *options

    def evaluate(self, data: str, report: str, folders: list[str], classifier: str = "melception") -> Command:
        """Evaluate folders of samples."""
        generated = [part for folder in folders for part in ("--generated", self.out / "samples" / folder)]
        labels = ("--manifest", self.out / f"{data}.parquet", "--split", SPLITS[data], "--keep-silent", "-o", self.out / report)
        return "unsilent", "evaluate", "--reference", f"data/{data}", *generated, "--classifier", classifier, *labels

    def reconstruct(self, data: str, *codebooks: object) -> Command:
        """Write mels of sounds and their reconstructions by codebooks."""
        chosen = [part for codebook in codebooks for part in ("--codebook", codebook)]
        place = ("-o", self.out / f"reconstructed-{data}", "--split", SPLITS[data])
        return "python", HERE / "reconstruct.py", self.out / f"{data}.parquet", *place, *chosen, *self.parallel

    def compare(self, data: str, report: str, codebooks: list[str]) -> Command:
        """Evaluate reconstructions."""
        folder = self.out / f"reconstructed-{data}"
        generated = [part for name in codebooks for part in ("--generated", folder / name)]
        told = ("--classifier", "melception", "--keep-silent", "-o", self.out / report)
        return "unsilent", "evaluate", "--reference", folder / "real", *generated, *told

    def released(self, data: str) -> Command:
        """Convert the authors' mels and features to shards."""
        lists = [part for split in ("train", "valid") for part in ("--list", f"{split}=data/{data}_{split}.txt")]
        labels = ("--labels", "data/vggsound/vggsound.csv") if data == "vggsound" else ()
        place = (f"data/{data}/features", "-o", f"work/{data}/released", "--backbone", "bninception")
        return "unsilent", "data", "import", *place, *lists, *labels

    def table1(self) -> Iterator[Command]:
        """Reconstructions of held-out sounds."""
        yield from map(_fetch, ("vggsound-5-resnet50", "vas-5-resnet50", "melception"))
        for data, models in (("vggsound", ["vggsound-5-resnet50"]), ("vas", ["vggsound-5-resnet50", "vas-5-resnet50"])):
            yield self.manifest(data)
            yield self.reconstruct(data, *models)
            yield self.compare(data, f"table1-{data}", models)

    def table2(self) -> Iterator[Command]:
        """The codebook trained without discriminator, without perceptual distance, and with both."""
        yield _fetch("melception")
        yield self.manifest("vggsound")
        yield self.released("vggsound")
        yield train(HERE / "vggishish.toml")
        yield "sed", "-n", f"/^perceptual/!w {self.out}/gan.toml", HERE / "vggsound-codebook.toml"
        whole = HERE / "vggsound-codebook.toml"
        rows = {"lpaps": (whole, "adversarial_weight=0.0"), "gan": (self.out / "gan.toml",), "gan-lpaps": (whole,)}
        for name, (recipe, *settings) in rows.items():
            yield train(recipe, f"out={self.out}/{name}", *settings)
        codebooks = [self.out / name / "checkpoint" for name in rows]
        yield self.reconstruct("vggsound", *codebooks)
        yield self.compare("vggsound", "table2", [str(path).replace("/", "_") for path in codebooks])

    def table3(self) -> Iterator[Command]:
        """Models with different conditions."""
        yield _fetch("melception")
        yield from map(self.manifest, SPLITS)
        for setting, (data, suffix, n_samples) in SETTINGS.items():
            models = [f"{data}-{condition}{suffix}" for condition in CONDITIONS]
            for model in models:
                yield _fetch(model)
                yield self.sample(data, model, n_samples)
            yield self.evaluate(data, f"table3{setting}", models)

    def table4(self) -> Iterator[Command]:
        """RegNet, and models conditioned on features and class, which were never published and must be trained and assembled first."""
        yield _fetch("melception")
        yield self.manifest("vas")
        models = []
        for setting in "bc":
            data, suffix, n_samples = SETTINGS[setting]
            features, with_class = f"{data}-212-bninception{suffix}", f"{self.out}/vas-212-bninception-class{suffix}"
            yield _fetch(features)
            yield self.sample(data, features, n_samples)
            yield self.sample(data, with_class, n_samples, out=Path(with_class).name)
            models += [features, Path(with_class).name]
        yield self.evaluate("vas", "table4", [*models, "regnet"])

    def table5(self) -> Iterator[Command]:
        """The classifiers themselves."""
        yield self.manifest("vggsound")
        for classifier in ("vggishish", "melception"):
            yield _fetch(classifier)
            yield self.evaluate("vggsound", f"table5-{classifier}", [], classifier)

    def figure16(self) -> Iterator[Command]:
        """One clip at several values of top-k."""
        yield from self.figure17()
        folders = [self.out / "samples" / f"vggsound-5-resnet50-top-k={k}" for k in TOP_X]
        yield "python", HERE / "figure16.py", self.out / "figure17/report.csv", *folders, "-o", self.out / "figure16.png"

    def figure17(self) -> Iterator[Command]:
        """Fidelity and relevance over top-k; the paper averages over the models of setting (a) with visual features."""
        yield _fetch("melception")
        yield self.manifest("vggsound")
        folders = []
        for model in (f"vggsound-{condition}" for condition in CONDITIONS[1:]):
            yield _fetch(model)
            for k in TOP_X:
                folders.append(f"{model}-top-k={k}")
                yield self.sample("vggsound", model, 1, "--top-k", k, out=folders[-1])
        yield self.evaluate("vggsound", "figure17", folders)

    def figure18(self) -> Iterator[Command]:
        """Relevance by class, a plot of the report."""
        yield from map(_fetch, ("melception", "vggsound-5-resnet50"))
        yield self.manifest("vggsound")
        yield self.sample("vggsound", "vggsound-5-resnet50", 10)
        yield self.evaluate("vggsound", "figure18", ["vggsound-5-resnet50"])

    def sheet(self, name: str, *folders: object, more: Command = ()) -> Command:
        """Draw the sounds of several folders side by side."""
        return "python", HERE / "figures.py", *folders, "-o", self.out / f"{name}.png", *more

    def shown(self, name: str, data: str, models: list[str], *asked: object, real: bool = True, n_samples: int = 1) -> Iterator[Command]:
        """Random clips of a data set: real sounds, and sounds of one or more models."""
        yield self.manifest(data)
        folders = []
        for model in models:
            yield _fetch(model)
            folders.append(self.out / "heard" / f"{name}-{model}")
            options = ("--model", model, "--samples", n_samples, "--split", SPLITS[data], "--keep", "wav", "--most", MOST_SHOWN)
            place = (self.out / f"{data}.parquet", "-o", folders[-1])
            yield "unsilent", "sample", *place, *options, "--precision", "float32", *asked, *self.parallel
        names = [part for one in (*(["real"] if real else []), *models) for part in ("--name", one)]
        takes = ("--takes", n_samples) if n_samples > 1 else ()
        yield self.sheet(name, *([f"data/{data}"] if real else []), *folders, more=(*names, *takes))

    def figure4(self) -> Iterator[Command]:
        """Samples of setting (a), and of (b) and (c) in figures 9 and 10."""
        yield from self.shown("figure4", "vggsound", ["vggsound-5-resnet50"])

    figure8 = figure4

    def figure5(self) -> Iterator[Command]:
        """A sound longer than its video."""
        yield _fetch("vas-212-resnet50")
        place = ("data/vas/drum/video_00000.mp4", "-o", self.out / "figure5/drum.mp4")
        yield "unsilent", "generate", *place, "--model", "vas-212-resnet50", "--seconds", 60, "--wav", "--picture", "--precision", "float32"

    def figure6(self) -> Iterator[Command]:
        """Reconstructions of random clips of VGGSound."""
        yield from self.reconstructed("figure6", "vggsound", ["vggsound-5-resnet50"])

    def figure7(self) -> Iterator[Command]:
        """Reconstructions of random clips of VAS by both codebooks."""
        yield from self.reconstructed("figure7", "vas", ["vggsound-5-resnet50", "vas-5-resnet50"])

    def reconstructed(self, name: str, data: str, models: list[str]) -> Iterator[Command]:
        """Random clips, and their reconstructions by codebooks and vocoder."""
        yield from map(_fetch, models)
        yield self.manifest(data)
        folder = self.out / f"heard/{name}"
        chosen = [part for model in models for part in ("--codebook", model)]
        told = ("--split", SPLITS[data], "--most", MOST_SHOWN, "--wav", *chosen, *self.parallel)
        yield "python", HERE / "reconstruct.py", self.out / f"{data}.parquet", "-o", folder, *told
        yield self.sheet(name, folder / "real", *(folder / model for model in models))

    def figure9(self) -> Iterator[Command]:
        """Samples of setting (b)."""
        yield from self.shown("figure9", "vas", ["vas-212-bninception-vggsound-codebook"])

    def figure10(self) -> Iterator[Command]:
        """Samples of setting (c)."""
        yield from self.shown("figure10", "vas", ["vas-212-bninception"])

    def figure11(self) -> Iterator[Command]:
        """RegNet, and the model of setting (c) conditioned on the class, which must be trained and assembled first."""
        model = self.out / "vas-212-bninception-class"
        yield self.manifest("vas")
        options = ("--model", model, "--samples", 1, "--split", "valid", "--keep", "wav", "--precision", "float32", *self.parallel)
        yield "unsilent", "sample", self.out / "vas.parquet", "-o", self.out / "heard/figure11", *options
        yield self.sheet("figure11", "data/vas", self.out / "samples/regnet", self.out / "heard/figure11")

    def figure12(self) -> Iterator[Command]:
        """Unconditional samples, VGGSound."""
        yield from self.shown("figure12", "vggsound", ["vggsound-nofeats"], real=False)

    def figure13(self) -> Iterator[Command]:
        """Unconditional samples, VAS."""
        yield from self.shown("figure13", "vas", ["vas-nofeats"], real=False)

    def figure14(self) -> Iterator[Command]:
        """Real beginnings that an unconditional model continues, VGGSound."""
        yield from self.shown("figure14", "vggsound", ["vggsound-nofeats"], "--prime", "own")

    def figure15(self) -> Iterator[Command]:
        """Real beginnings that an unconditional model continues, VAS."""
        yield from self.shown("figure15", "vas", ["vas-nofeats"], "--prime", "own")

    def figure19(self) -> Iterator[Command]:
        """The sampler's attention beside the generated sound; the page of `unsilent web` also shows it."""
        yield _fetch("vas-212-resnet50")
        place = ("data/vas/drum/video_00000.mp4", "-o", self.out / "figure19/drum.mp4")
        yield "unsilent", "generate", *place, "--model", "vas-212-resnet50", "--wav", "--picture", "--attention", "--precision", "float32"

    def figure20(self) -> Iterator[Command]:
        """Several samples of each clip."""
        yield from self.shown("figure20", "vggsound", ["vggsound-5-resnet50"], n_samples=5)


def _fetch(name: str) -> Command:
    return "unsilent", "models", "fetch", name


def train(recipe: Path, *settings: str) -> Command:
    """Run a training, or resume it."""
    return "unsilent", "train", recipe, *(part for setting in settings for part in ("--set", setting)), "--resume"


@dataclass(frozen=True)
class Small:
    """Commands at small scale: the everyday data and model; small.py describes the data."""

    material: Path
    judge: str
    n_clips: int
    n_samples: int
    out: Path
    parallel: Command

    def manifest(self) -> Iterator[Command]:
        """Write the manifest, unless it exists."""
        if not (self.out / "material.parquet").exists():
            yield "unsilent", "data", "manifest", self.material, "-o", self.out / "material.parquet"

    def sounds(self) -> Iterator[Command]:
        """Extract the waveforms of all data."""
        yield from self.manifest()
        grid = ("--preset", "vggsound-nofeats")  # the clip of `everyday`, without an image network
        yield "unsilent", "data", "extract", self.out / "material.parquet", "-o", self.out / "sounds", *grid

    def vggishish(self) -> Iterator[Command]:
        """Train a VGGish-ish for perceptual distances."""
        yield from self.sounds()
        settings = (f"shards={self.out}/sounds", f"out={self.out}/vggishish", *SHORT, "valid_every=0", "patience=0")
        yield train(HERE.parent / "everyday/vggishish.toml", *settings)

    def sample(self, condition: str, name: str, *more: object, model: Path | None = None) -> Command:
        """Generate a folder of samples. With `everyday` they are not ranked, because the same classifier evaluates them."""
        place = (self.out / f"{condition}.parquet", "-o", self.out / "samples" / name)
        by = ("--candidates", 1) if model is None else ("--model", model)
        return "unsilent", "sample", *place, "--samples", self.n_samples, "--keep", "wav", *by, *more, *self.parallel

    def evaluate(self, report: str, *folders: Path) -> Command:
        """Evaluate folders of samples."""
        generated = [part for folder in folders for part in ("--generated", folder)]
        options = ("--classifier", self.judge, "--labels", "folders", "-o", self.out / report)
        return "unsilent", "evaluate", "--reference", self.out / "reference", *generated, *options

    def prepared(self) -> Iterator[Command]:
        """Write images, sounds and manifests of the conditions."""
        yield from self.manifest()
        yield "python", HERE / "table.py", "prepare", *self.options

    @property
    def options(self) -> Command:
        """Options of table.py for this scale."""
        return "--everyday", self.material, "--classifier", self.judge, "--clips", self.n_clips, "--out", self.out

    def table1(self) -> Iterator[Command]:
        """Reconstructions of held-out sounds."""
        yield from self.manifest()
        place = ("-o", self.out / "reconstructed", "--most", self.n_clips, "--codebook", "everyday")
        yield "python", HERE / "reconstruct.py", self.out / "material.parquet", *place, *self.parallel
        compared = ("--reference", self.out / "reconstructed/real", "--generated", self.out / "reconstructed/everyday")
        yield "unsilent", "evaluate", *compared, "--classifier", self.judge, "-o", self.out / "table1"

    def table2(self) -> Iterator[Command]:
        """Codebooks trained with each loss for a few steps."""
        yield from self.vggishish()
        told = ("--shards", self.out / "sounds", "--vggishish", self.out / "vggishish/checkpoint", "--judge", self.judge)
        trained = ("--out", self.out / "table2", "--steps", SMALL_STEPS, "--most", SMALL_SOUNDS, "--adversarial-weight", 0.05)
        yield "python", HERE.parents[1] / "benchmarks/codebook_losses.py", *told, *trained

    def table3(self) -> Iterator[Command]:
        """Conditions of `small.py`, in place of the paper's numbers of features."""
        from small import CONDITIONS

        yield from self.prepared()
        for condition in CONDITIONS:
            yield self.sample(condition, condition)
        yield self.evaluate("table3", *(self.out / "samples" / condition for condition in CONDITIONS))

    def trained(self, *conditions: str) -> Iterator[Command]:
        """Train models with other conditions for a few steps from a folder of classes, as in docs/train.md."""
        yield from self.prepared()
        folder, recipes = self.out / "trained", HERE.parent / "small"
        shards, codebook = folder / "shards", folder / "codebook"
        settings = (f"shards={shards}", *SHORT)
        yield "unsilent", "data", "manifest", self.out / "classes", "-o", folder / "manifest.parquet", "--valid", 0
        yield "unsilent", "data", "extract", folder / "manifest.parquet", "-o", shards, "--preset", "small"
        yield train(recipes / "codebook.toml", f"out={codebook}", *settings)
        yield "unsilent", "data", "extract", "-o", shards, "--codebook", codebook / "checkpoint"
        for condition in conditions:
            sampler, model = folder / condition, folder / f"{condition}-model"
            own = (f"out={sampler}", f"codebook={codebook}/checkpoint", f"condition={condition}")
            yield train(recipes / "class.toml", *own, *settings)
            if not (model / "bundle.json").exists():
                parts = ("--codebook", codebook / "checkpoint", "--sampler", sampler / "checkpoint", "--vocoder", "everyday")
                yield "unsilent", "models", "assemble", "-o", model, *parts

    def table4(self) -> Iterator[Command]:
        """A sound library in place of RegNet: a training sound of the label. Also models conditioned on the label."""
        yield from self.trained(*SMALL_CONDITIONS)
        yield self.sample("1-picture", "1-picture")
        for condition in SMALL_CONDITIONS:
            yield self.sample("labelled", condition, model=self.out / f"trained/{condition}-model")
        folders = (self.out / "samples" / name for name in ("1-picture", *SMALL_CONDITIONS))
        yield self.evaluate("table4", *folders, self.out / "training-sound")

    def table5(self) -> Iterator[Command]:
        """The classifiers themselves."""
        yield from self.vggishish()
        for name, classifier in (("judge", self.judge), ("vggishish", self.out / "vggishish/checkpoint")):
            options = ("--manifest", self.out / "material.parquet", "--split", "test", "-o", self.out / f"table5-{name}")
            yield "unsilent", "evaluate", "--reference", self.material, "--classifier", classifier, *options

    def figure16(self) -> Iterator[Command]:
        """One clip at several values of top-k."""
        yield from self.figure17()
        folders = [self.out / "samples" / f"top-k={k}" for k in SMALL_TOP_X]
        yield "python", HERE / "figure16.py", self.out / "figure17/report.csv", *folders, "-o", self.out / "figure16.png"

    def figure17(self) -> Iterator[Command]:
        """Fidelity and relevance over top-k."""
        yield from self.prepared()
        for k in SMALL_TOP_X:
            yield self.sample("1-picture", f"top-k={k}", "--top-k", k)
        yield self.evaluate("figure17", *(self.out / "samples" / f"top-k={k}" for k in SMALL_TOP_X))

    def figure18(self) -> Iterator[Command]:
        """Relevance by class, a plot of the report."""
        yield from self.prepared()
        yield self.sample("1-picture", "1-picture")
        yield self.evaluate("figure18", self.out / "samples/1-picture")

    def sheet(self, name: str, *folders: Path, more: Command = ()) -> Command:
        """Draw the sounds of several folders side by side."""
        return "python", HERE / "figures.py", *folders, "-o", self.out / f"{name}.png", *more

    def figure4(self) -> Iterator[Command]:
        """A real sound of the label, and a sound generated from the image."""
        yield from self.prepared()
        yield self.sample("1-picture", "1-picture")
        yield self.sheet("figure4", self.out / "reference", self.out / "samples/1-picture")

    figure8 = figure9 = figure10 = figure4

    def figure5(self) -> Iterator[Command]:
        """A sound longer than its video."""
        yield "unsilent", "generate", "demo/cat.mp4", "-o", self.out / "figure5/cat.mp4", "--seconds", 30, "--wav", "--picture"

    def figure6(self) -> Iterator[Command]:
        """Reconstructions of held-out sounds."""
        yield from self.manifest()
        place = ("-o", self.out / "heard", "--most", self.n_clips, "--wav", "--codebook", "everyday")
        yield "python", HERE / "reconstruct.py", self.out / "material.parquet", *place, *self.parallel
        yield self.sheet("figure6", self.out / "heard/real", self.out / "heard/everyday")

    figure7 = figure6

    def figure11(self) -> Iterator[Command]:
        """A training sound of the label, in place of RegNet, and sounds of the model."""
        yield from self.prepared()
        yield self.sample("1-picture", "1-picture")
        yield self.sheet("figure11", self.out / "reference", self.out / "training-sound", self.out / "samples/1-picture")

    def figure12(self) -> Iterator[Command]:
        """Sounds for a grey image."""
        yield from self.prepared()
        yield self.sample("nothing", "nothing")
        yield self.sheet("figure12", self.out / "samples/nothing")

    figure13 = figure12

    def figure14(self) -> Iterator[Command]:
        """Real beginnings of held-out videos, which the model continues."""
        yield from self.prepared()
        yield self.sample("clips", "primed", "--prime", "own", "--split", "all")
        yield self.sheet("figure14", self.out / "films", self.out / "samples/primed")

    figure15 = figure14

    def figure19(self) -> Iterator[Command]:
        """Attention to the condition, by a sampler whose condition is a prefix; `everyday` adds its condition to the codes instead."""
        yield from self.trained("features")
        place = ("demo/cat.mp4", "-o", self.out / "figure19/cat.mp4", "--overwrite")
        yield "unsilent", "generate", *place, "--model", self.out / "trained/features-model", "--wav", "--picture", "--attention"

    def figure20(self) -> Iterator[Command]:
        """Several samples of each image."""
        yield from self.prepared()
        yield self.sample("1-picture", "1-picture")
        yield self.sheet("figure20", self.out / "samples/1-picture", more=("--takes", self.n_samples))


def run(commands: Iterator[Command], done: dict[Command, int]) -> int:
    """Run each command once, until one fails. Returns its exit code, or 3 if some inputs of a command failed.

    Args:
        commands: commands to run.
        done: exit codes of the commands that have been run; new ones are added.
    """
    worst = 0
    for command in commands:
        if command not in done:
            program, *arguments = command[0], *map(str, command[1:])
            sys.stderr.write(f"$ {shlex.join([program, *arguments])}\n")
            done[command] = subprocess.run([*COMMANDS[program], *arguments]).returncode
        if done[command] not in (0, 3):
            return done[command]
        worst = max(worst, done[command])
    return worst


def table(report: Path) -> str:
    """Format a report like a table of the paper: FID and MKL of each folder with their intervals."""
    about = json.loads(report.read_text())
    lines = [f"{'':24}  {'FID':>22}  {'MKL':>22}  {'top-1 %':>8}"]
    for system in about["systems"]:
        figures = system["figures"]
        top1 = f"{100 * figures['top1']['value']:8.1f}" if "top1" in figures else ""
        lines.append(f"{system['name']:24}  {_shown(figures.get('fid')):>22}  {_shown(figures.get('mkl')):>22}  {top1}")
    return "\n".join(lines)


def _shown(figure: dict | None) -> str:
    if figure is None:
        return ""
    low, high = figure["interval"] or (None, None)
    return f"{figure['value']:.2f}" + (f" [{low:.2f}, {high:.2f}]" if low is not None else "")


def main() -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("which", nargs="+", choices=WHICH, help="number of a table or figure; figures 4 to 9 are fig4 to fig9")
    parser.add_argument(
        "--everyday", type=Path, metavar="MATERIAL", help="run at small scale on a folder with sounds.csv, images.csv, clips.csv"
    )
    parser.add_argument("--classifier", default="everyday", metavar="NAME|PATH", help="classifier of the small tables")
    parser.add_argument("--clips", type=int, default=10, help="number of clips at small scale")
    parser.add_argument("--samples", type=int, default=2, help="samples per clip at small scale")
    parser.add_argument("--out", type=Path, help="[default: work/paper or work/paper-small]")
    parser.add_argument("--workers", type=int, help="as in `unsilent sample`")
    parser.add_argument("--ray", metavar="ADDRESS", help="as in `unsilent sample`")
    parser.add_argument("--print", action="store_true", help="print the commands and run nothing")
    options = parser.parse_args()
    out = options.out or Path("work/paper-small" if options.everyday else "work/paper")
    chosen = {"--workers": options.workers, "--ray": options.ray}
    parallel = tuple(part for name, value in chosen.items() if value for part in (name, value))
    small = (options.everyday, options.classifier, options.clips, options.samples, out, parallel)
    scale = Small(*small) if options.everyday else Full(out, parallel)
    if options.which == ["prepare"]:
        return _prepare(scale)
    worst, done = 0, {}
    for which in options.which:
        name = ("table" if len(which) == 1 else "figure") + which.removeprefix("fig")
        make: Callable[[], Iterator[Command]] = getattr(scale, name)
        if options.print:
            sys.stdout.write("".join(shlex.join(map(str, command)) + "\n" for command in make()))
            continue
        if (code := run(make(), done)) not in (0, 3):
            return code
        worst = max(worst, code)
        for report in sorted(out.glob(f"{name}*/report.json")) if name != "table5" else ():
            sys.stdout.write(f"\n{report.parent}\n{table(report)}\n")
    return worst


def _prepare(scale: Full | Small) -> int:
    from small import prepare

    from unsilent.evaluation.classifier import load_classifier

    prepare(scale.out / "material.parquet", scale.out, load_classifier(scale.judge, "cpu").classes, scale.n_clips)
    return 0


if __name__ == "__main__":
    sys.exit(main())
