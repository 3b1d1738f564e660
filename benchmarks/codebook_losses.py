"""The effect of a discriminator and a perceptual distance on a codebook: table 2 of the paper at small scale.

    python benchmarks/codebook_losses.py --shards DIR --vggishish CHECKPOINT --judge NAME|CHECKPOINT --out DIR [--steps N]

Trains the codebook of runs/small/codebook.toml for the same number of steps with different losses, one after another, on one thread.
An interrupted training resumes, and a finished one is only measured. Rows of the table:

- `plain`: reconstruction and codebook losses
- `gan`: as `plain`, with a discriminator from a third of the steps on
- `gan+lpaps`: as `gan`, with the perceptual distance of the classifier `--vggishish`
- `gan+untrained`: as `gan+lpaps`, but the classifier has random weights, as in the authors' training

`--judge` is a classifier that no training uses. Columns, over sounds of the split `valid` that are at least one training crop long:

- mel L1: mean absolute difference of mels in [-1, 1] over at most one clip of each sound; mean over sounds with standard error
- codes, perplexity: fraction of codes that occur, and the exponential of the entropy of the codes
- FID, MKL: from the judge's features (layer before the last) and logits for windows of 256 frames from the middle of sounds, and for their
  reconstructions. Windows are repeated to the judge's input length. The FID is biased by few rows, so it can only be compared within this
  table
- LPAPS: the perceptual distance of `--vggishish` on the same windows
- top-1: accuracy of the judge on the reconstructed windows; that on the original windows is printed above the table
"""

import argparse
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unsilent.checkpoints.folders import read_config
from unsilent.checkpoints.store import load_checkpoint, save_checkpoint
from unsilent.data.shards import Shard
from unsilent.evaluation.classifier import Classifier, load_classifier
from unsilent.metrics import fid, mkl
from unsilent.models.codebook import Codebook
from unsilent.models.perceptual import Perceptual
from unsilent.models.vggishish import VGGishish
from unsilent.signal.mel import from_mel01, log_mel01, to_mel01

RUN = Path(__file__).parents[1] / "runs/small/codebook.toml"
WINDOW = 256  # mel frames per window for the judge, as in its training (runs/everyday/vggishish.toml)
BATCH = 16  # windows per batch
UNTRAINED_SEED = 0


def main() -> None:
    """Run the missing trainings, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", type=Path, required=True)
    parser.add_argument("--vggishish", type=Path, required=True, help="checkpoint of the classifier for the perceptual distance")
    parser.add_argument("--judge", required=True, help="another classifier, used only to measure")
    parser.add_argument("--out", type=Path, required=True, help="folder for the table and one folder per training")
    parser.add_argument("--steps", type=int, help="steps of each training [default: as in the run file]")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="rows to train and print")
    parser.add_argument("--adversarial-weight", type=float, default=0.8, help="weight of the adversarial loss; 0.8 in the paper")
    parser.add_argument("--most", type=int, metavar="N", help="measure only N sounds, evenly spaced")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting of all rows; may be repeated")
    options = parser.parse_args()
    torch.set_num_threads(1)
    base = tomllib.loads(RUN.read_text())
    steps = options.steps or base["steps"]
    rows = variants(options, steps)
    if unknown := set(options.only or []) - rows.keys():
        parser.error(f"no row {', '.join(sorted(unknown))}; there are {', '.join(rows)}.")
    checkpoints = {}
    for name in options.only or rows:
        shortened = {"steps": steps, **{key: round(base[key] * steps / base["steps"]) for key in ("warmup_steps", "decay_steps")}}
        checkpoints[name] = train(options, name, shortened | rows[name])
    sounds = ValidSounds(options.shards, options.vggishish, load_classifier(options.judge, "cpu"), base["crop_columns"], options.most)
    table = {name: sounds.measure(load_checkpoint(checkpoint, "codebook")) for name, checkpoint in checkpoints.items()}
    report(options, steps, table)


def variants(options: argparse.Namespace, steps: int) -> dict[str, dict[str, object]]:
    """Return the settings of each row that differ from the run file."""
    gan = {"adversarial_weight": options.adversarial_weight, "adversarial_start": steps // 3, "discriminator_width": 16}
    return {
        "plain": {},
        "gan": gan,
        "gan+lpaps": gan | {"perceptual": str(options.vggishish), "perceptual_weight": 1.0},
        "gan+untrained": gan
        | {"perceptual": str(untrained(options.vggishish, options.out)), "perceptual_weight": 1.0, "perceptual_untrained": True},
    }


def untrained(trained: Path, out: Path) -> Path:
    """Write a checkpoint like `trained`, but with random initial weights, unless it exists."""
    folder, about = out / "untrained-vggishish", read_config(trained)
    if not (folder / "config.json").exists():
        torch.manual_seed(UNTRAINED_SEED)
        network = VGGishish(load_checkpoint(trained, "vggishish").config)
        record = {"steps": 0, "untrained": f"random weights of seed {UNTRAINED_SEED}, never trained: for comparison only"}
        save_checkpoint(folder, "vggishish", about["preset"], network.config, network.state_dict(), record)
    return folder


def train(options: argparse.Namespace, name: str, settings: dict[str, object]) -> Path:
    """Train the codebook of one row, unless it is finished, and return its checkpoint."""
    folder = options.out / f"{name}-{settings['steps']}"
    checkpoint, note = folder / "checkpoint", folder / "settings.json"
    wanted = {"settings": settings, "set": options.set}
    if note.exists() and json.loads(note.read_text()) != wanted:
        raise SystemExit(f"{folder} was trained with other settings, see {note}; choose another --out.")
    folder.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps(wanted, indent=2) + "\n")
    if (checkpoint / "config.json").exists() and read_config(checkpoint)["record"].get("steps") == settings["steps"]:
        return checkpoint
    print(f"training {name} in {folder}", file=sys.stderr, flush=True)
    values = {**settings, "shards": str(options.shards), "out": str(folder), "threads": 1}
    overrides = [f"{key}={json.dumps(value)}" for key, value in values.items()] + options.set
    command = [str(Path(sys.executable).with_name("unsilent")), "train", str(RUN), "--resume"]
    command += [part for override in overrides for part in ("--set", override)]
    subprocess.run(command, check=True, stdout=sys.stderr, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return checkpoint


class ValidSounds:
    """Measures codebooks on the validation sounds."""

    def __init__(self, shards: Path, vggishish: Path, judge: Classifier, crop_columns: int, most: int | None) -> None:
        self.shard, self.judge = Shard(shards, "waveforms"), judge
        self.distance = Perceptual.from_classifier(load_checkpoint(vggishish, "vggishish")).eval()
        least = crop_columns * judge.clip.column_samples
        entries = [(item, entry) for item, entry in enumerate(self.shard.entries) if entry.row.split == "valid" and entry.length >= least]
        entries = entries[:: -(-len(entries) // most)] if most else entries
        self.items = [item for item, _ in entries]
        labels = [entry.row.label for _, entry in entries]
        self.labels = np.array(
            [judge.classes.index(label) if label in judge.classes else -1 for label in labels]
        )  # -1: not a class of the judge

    @torch.inference_mode()
    def measure(self, codebook: Codebook) -> dict[str, float]:
        """Compute a row of the table."""
        clip, differences, counts = codebook.config.clip, [], np.zeros(codebook.config.n_codes)
        for item in self.items:
            waveform = self.shard[item][: clip.n_samples]
            whole = len(waveform) // clip.column_samples * clip.column_samples
            mel = from_mel01(log_mel01(_scaled(waveform[:whole])[None], clip))
            grid = codebook.encode(mel)
            counts += np.bincount(grid.flatten().numpy(), minlength=len(counts))
            differences.append((mel - _within(codebook.decode_codes(grid))).abs().mean().item())
        samples, distances, features, logits = WINDOW * clip.hop, [], {"true": [], "rebuilt": []}, {"true": [], "rebuilt": []}
        for start in range(0, len(self.items), BATCH):
            windows = torch.stack([_scaled(_middle(self.shard[item], samples)) for item in self.items[start : start + BATCH]])
            true = from_mel01(log_mel01(windows, clip))
            rebuilt = _within(codebook.decode_codes(codebook.encode(true)))
            distances.append(self.distance(true, rebuilt))
            for name, mel in (("true", true), ("rebuilt", rebuilt)):
                for seen, said in (self.judge.classify(self.judge.fit(one)) for one in to_mel01(mel)):
                    features[name].append(seen)
                    logits[name].append(said)
        features, logits = ({name: np.stack(parts) for name, parts in found.items()} for found in (features, logits))
        shares = counts[counts > 0] / counts.sum()
        return {
            "sounds": len(self.items),
            "mel_l1": float(np.mean(differences)),
            "mel_l1_error": float(np.std(differences, ddof=1) / np.sqrt(len(differences))),
            "codes_used": float((counts > 0).mean()),
            "perplexity": float(np.exp(-(shares * np.log(shares)).sum())),
            "fid": fid(features["true"], features["rebuilt"]),
            "mkl": mkl(logits["true"], logits["rebuilt"]),
            "lpaps": torch.cat(distances).mean().item(),
            "top1": _top1(logits["rebuilt"], self.labels),
            "top1_true": _top1(logits["true"], self.labels),
        }


def _within(mel: Tensor) -> Tensor:
    """Clamp to [-1, 1], as vocoders and classifiers do."""
    return from_mel01(to_mel01(mel))


def _scaled(waveform: np.ndarray) -> Tensor:
    return torch.from_numpy(waveform.astype(np.float32) / 32768)


def _middle(waveform: np.ndarray, samples: int) -> np.ndarray:
    """Crop the middle of a sound, or repeat a shorter sound, as in the validation of classifiers."""
    start = max(0, len(waveform) - samples) // 2
    return np.resize(waveform[start : start + samples], samples)


def _top1(logits: np.ndarray, labels: np.ndarray) -> float:
    known = labels >= 0
    return float((logits.argmax(1) == labels)[known].mean())


def report(options: argparse.Namespace, steps: int, table: dict[str, dict[str, float]]) -> None:
    """Print the table and write its JSON."""
    first = next(iter(table.values()))
    facts = {"steps": steps, "set": options.set, "judge": options.judge, "rows": table}
    path = options.out / f"table-{steps}.json"
    path.write_text(json.dumps(facts, indent=2) + "\n")
    print(f"{steps} steps each; {first['sounds']} sounds; the judge recognises {first['top1_true']:.1%} of the originals\n")
    print("| losses | mel L1 | codes | perplexity | FID | MKL | LPAPS | top-1 |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, row in table.items():
        print(
            f"| {name} | {row['mel_l1']:.4f} ± {row['mel_l1_error']:.4f} | {row['codes_used']:.1%} | {row['perplexity']:.0f} "
            f"| {row['fid']:.2f} | {row['mkl']:.3f} | {row['lpaps']:.3f} | {row['top1']:.1%} |"
        )


if __name__ == "__main__":
    main()
