"""`unsilent generate`: generate sound for videos."""

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unsilent.choices import MAX_TAKES, Bits, Original, PrimeKeep, Scenes
from unsilent.cli import live, options
from unsilent.cli.terminal import Bar, Column, print_table, say

if TYPE_CHECKING:
    from unsilent.request import Request

SOME = 5  # file names listed in a message about many files
EXAMPLES = options.examples(
    "unsilent generate clip.mp4",
    "unsilent generate clip.mp4 -o with_sound.mp4 --seed 7 --takes 4",
    "unsilent generate videos -o out --wav --picture",
    "unsilent generate clip.mp4 --original duck --json",
    "unsilent generate clip.mp4 --stream -o - | aplay -f S16_LE -r 22050",
    "unsilent generate clip.mp4 --prime own --prime-seconds 2 --seconds 20",
    "unsilent generate clip.mp4 --cues cues.csv --label drum --mute 2-4.5",
)


def generate(
    inputs: Annotated[list[Path], typer.Argument(metavar="VIDEO|FOLDER...", help="Videos, or folders of videos.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="A file for one video, a folder for several. [default: STEM.sound.* beside each video]"),
    ] = None,
    model: options.Model = "everyday",
    seed: options.Seed = 0,
    takes: Annotated[int, typer.Option(min=1, max=MAX_TAKES, help="Number of different sounds per video.")] = 1,
    top_k: options.TopK = None,
    temperature: options.Temperature = None,
    guidance: options.Guidance = None,
    motion: options.Motion = True,
    label: Annotated[str | None, typer.Option(help="Class name of the sound. [default: recognised in the video]")] = None,
    avoid: options.Avoid = None,
    like: Annotated[str | None, typer.Option(metavar="FILE", help="Reference sound: the most similar takes come first.")] = None,
    candidates: options.Candidates = None,
    cues: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|auto", help="Times of the sounds: .csv, .mid, .edl, .otio or .rpp; auto: visible impacts, see `unsilent cues`."
        ),
    ] = None,
    prompt_track: Annotated[Path | None, typer.Option(metavar="FILE", help="Labels over time: a table of start, stop, label.")] = None,
    mute: Annotated[
        list[str] | None, typer.Option(metavar="S-S", help="Silent stretch in seconds, such as 2-4.5; may be repeated.")
    ] = None,
    scenes: Annotated[Scenes, typer.Option(help="auto: condition each shot on its own frames; off: ignore cuts.")] = "auto",
    seconds: Annotated[float | None, typer.Option(metavar="S", help="Length of the sound. [default: length of the video]")] = None,
    prime: Annotated[str | None, typer.Option(metavar="FILE|own", help="Continue the sound of a file, or of the video itself.")] = None,
    prime_seconds: Annotated[float | None, typer.Option(metavar="S", help="Length of the primed beginning. [default: 3]")] = None,
    prime_keep: Annotated[PrimeKeep, typer.Option(help="Keep the codes of the beginning, or its samples with a cross-fade.")] = "codes",
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    vocoder: options.Vocoder = "neural",
    stream: Annotated[
        bool,
        typer.Option("--stream", help="Write the sound while it is generated: -o FILE.wav grows, -o - is 16-bit PCM on standard output."),
    ] = False,
    original: Annotated[Original, typer.Option(help="Sound of the video: drop, keep (mix in), duck (mix in quieter).")] = "drop",
    wav: Annotated[bool, typer.Option("--wav", help="Also write the sound as WAV.")] = False,
    flac: Annotated[bool, typer.Option("--flac", help="Also write the sound as FLAC.")] = False,
    opus: Annotated[bool, typer.Option("--opus", help="Also write the sound as Opus.")] = False,
    stems: Annotated[
        bool, typer.Option("--stems", help="Also write one sound per label over time; they add up to the whole sound.")
    ] = False,
    export: Annotated[
        str | None, typer.Option(metavar="otio,rpp,...", help="Also write projects with video, takes and cues: otio, otioz, rpp, mid, edl.")
    ] = None,
    rate: Annotated[int | None, typer.Option(metavar="44100|48000", help="Sample rate of the files. [default: the model's]")] = None,
    bits: Annotated[Bits, typer.Option(help="Bit depth of the sound files; 32f is floating point.")] = "16",
    stereo: Annotated[bool, typer.Option("--stereo", help="Pan the sound to where the motion is.")] = False,
    lufs: Annotated[float | None, typer.Option(metavar="LUFS", help="Loudness. [default: -23]")] = None,
    true_peak: Annotated[float | None, typer.Option(metavar="dBTP", help="Maximum true peak. [default: sample peak of -1 dBFS]")] = None,
    fade_in: Annotated[float | None, typer.Option(metavar="S", help="Duration of the fade-in.")] = None,
    fade_out: Annotated[float | None, typer.Option(metavar="S", help="Duration of the fade-out.")] = None,
    picture: Annotated[bool, typer.Option("--picture", help="Also draw frames and spectrogram on one time axis (PNG).")] = False,
    sidecar: Annotated[bool, typer.Option(help="Also write NAME.unsilent.json, to reopen the result later.")] = True,
    attention: Annotated[bool, typer.Option("--attention", help="With --picture: also draw the sampler's attention.")] = False,
    tracks: Annotated[bool, typer.Option("--tracks", help="Write all takes as audio tracks of one video.")] = False,
    sheet: Annotated[bool, typer.Option("--sheet", help="Also draw a contact sheet of all takes (PNG).")] = False,
    overwrite: options.Overwrite = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per result instead of a table.")] = False,
) -> int:
    """Generate sound for videos. Video streams are copied unchanged where the container allows it."""
    given = dict(locals())
    from unsilent.errors import ParameterError
    from unsilent.generation.stems import stem_labels
    from unsilent.request import Request

    asked = {name: given[name] for name in Request.model_fields if name in given}
    asked["avoid"] = options.split(avoid)
    request = Request(**asked | read_over_time(inputs, cues, prompt_track, mute))
    if attention and (stream or not picture):
        raise ParameterError(f"--attention is {'not recorded with --stream' if stream else 'drawn into the picture; add --picture'}.")
    if stream and out is not None and (str(out) == live.PIPE or out.suffix.lower() == ".wav"):
        if rate or stereo or bits != "16":
            raise ParameterError("a stream is 16-bit mono at the model's sample rate; leave out --rate, --bits and --stereo.")
        return _stream(inputs, str(out), request, (model, device, precision, vocoder), overwrite)
    if bits == "32f" and flac:
        raise ParameterError("FLAC cannot store floating point; choose --bits 16 or 24, or --wav.")
    if stems and not stem_labels(request):
        raise ParameterError("--stems needs labels over time; give --prompt-track, or --cues with labels.")
    files = {"wav": wav, "picture": picture, "sidecar": sidecar, "tracks": tracks, "sheet": sheet, "overwrite": overwrite}
    files["further"] = further_suffixes(flac, opus, export)
    more = {"attention": attention, "stems": stems}
    return _make(inputs, out, request, (model, device, precision, vocoder), files, more, as_json)


def _make(
    inputs: list[Path],
    out: Path | None,
    request: "Request",
    load_as: tuple[str, ...],
    files: dict[str, Any],
    more: dict[str, bool],
    as_json: bool,
) -> int:
    """Generate and write the sounds of all videos."""
    from unsilent import outputs
    from unsilent.checkpoints.folders import find_bundle, read_defaults
    from unsilent.files import require_path

    jobs = outputs.plan(inputs, out, request.seed)
    if others := outputs.passed_over(inputs, jobs, out):
        some = ", ".join(str(path) for path in others[:SOME]) + (", …" if len(others) > SOME else "")
        say(f"{len(others)} files are not videos and are left out: {some}.")
    outputs.check(jobs, takes=request.takes, original=request.original, **files)
    for path in request.files().values():
        require_path(Path(path))
    defaults = read_defaults(find_bundle(load_as[0]))
    request = request.resolve(defaults)  # raises for values that the model does not allow
    results = []
    with Bar(len(jobs)) as bar:
        from unsilent import batch  # imports torch, so only after the bar is shown
        from unsilent.loading import load

        pipeline = load(*load_as)
        for result in batch.run(pipeline, jobs, request, lambda job: bar.watch(job.video.name), **more, **files):
            results.append(result)
            bar.finish(len({one.video for one in results}))
            if result.status == "failed":
                say(result.why)
            if as_json:
                typer.echo(json.dumps(batch.as_record(result, request, pipeline)))
    if results and not as_json and (len(jobs) > 1 or results[0].status == "made"):
        _print_results(results)
    if all(result.status != "failed" for result in results):
        return 0
    return 3 if len(jobs) > 1 else 2


def further_suffixes(flac: bool, opus: bool, export: str | None) -> list[str]:
    """Suffixes of the sound files and projects to write beside the videos."""
    from unsilent.errors import ParameterError
    from unsilent.media.suffixes import PROJECT_SUFFIXES

    suffixes = [suffix for suffix, wanted in ((".flac", flac), (".opus", opus)) if wanted]
    for name in export.split(",") if export is not None else ():
        suffix = f".{name.strip().removeprefix('.').lower()}"
        if suffix not in PROJECT_SUFFIXES:
            raise ParameterError(f"--export {name!r} is unknown; choose among {', '.join(one[1:] for one in PROJECT_SUFFIXES)}.")
        from unsilent.exchange.formats import check_suffix  # PyAV

        check_suffix(Path(f"--export {name}{suffix}"))
        suffixes.append(suffix)
    return list(dict.fromkeys(suffixes))


def read_over_time(inputs: list[Path], cues: str | None, prompt_track: Path | None, mute: list[str] | None) -> dict[str, Any]:
    """Read the request's fields that vary over time: cues, labels over time and mutes."""
    from unsilent.cues import AUTO, parse_stretch
    from unsilent.errors import ParameterError
    from unsilent.files import require_path

    fields: dict[str, Any] = {"mute": tuple(map(parse_stretch, mute))} if mute else {}
    if cues == AUTO:
        fields["cues"] = AUTO
    elif cues is not None:
        from unsilent.exchange.formats import read_cues  # PyAV
        from unsilent.exchange.timecode import frame_rate

        if len(inputs) != 1 or inputs[0].is_dir():
            raise ParameterError("--cues FILE applies to one video; give one video, or --cues auto for several.")
        require_path(inputs[0])
        fields["cues"] = tuple(read_cues(Path(cues), frame_rate(inputs[0])))
    if prompt_track is not None:
        from unsilent.exchange.tables import read_prompt_track

        require_path(prompt_track)
        fields["prompt_track"] = tuple(read_prompt_track(prompt_track))
    return fields


def _stream(inputs: list[Path], out: str, request: "Request", load_as: tuple[str, ...], overwrite: bool) -> int:
    """Write the sound of one video while it is generated."""
    from unsilent.checkpoints.folders import find_bundle, read_defaults
    from unsilent.errors import ParameterError
    from unsilent.files import require_path

    if len(inputs) != 1 or inputs[0].is_dir():
        raise ParameterError(f"{out} can hold the stream of one video only; give one video, or a folder as -o.")
    require_path(inputs[0])
    live.check_out(out, overwrite)
    request.resolve(read_defaults(find_bundle(load_as[0])))  # raises for values that the model does not allow
    from unsilent.loading import load

    pipeline = load(*load_as)
    live.write(pipeline.stream(inputs[0], request), out, pipeline.clip.sample_rate)
    return 0


def _print_results(results: list) -> None:
    """Print a table with one row per take: its times, or that it was kept or failed."""
    ranked = any(result.score is not None for result in results)
    names = ("length", "time", "real-time factor", *(("seen", "score") if ranked else ()))
    figures = [Column(name, justify="right", no_wrap=True) for name in names]
    rows, encoded = [], dict[str, str | None]()
    files, written = Counter(result.out for result in results if result.status == "made"), Counter[Path]()
    for result in results:
        written[result.out] += 1
        track = f", track {written[result.out]}" if files[result.out] > 1 else ""
        last = ("", "", result.status)
        if result.status == "made":
            encoded.update({str(result.out): result.pictures} if result.pictures != "copied" else {})
            last = (f"{result.seconds:.2f} s", f"{result.spent_seconds:.2f} s", f"{result.real_time_factor:.2f}")
        if ranked:
            seen = next(iter(result.seen.items()), None)
            score = "" if result.score is None else f"{result.score:.2f}"
            last += (f"{seen[0]} {seen[1]:.0%}" if seen else "", score)
        rows.append((str(result.video), "" if result.status == "failed" else f"{result.out}{track}", *last))
    print_table([Column("video", overflow="fold"), Column("sound", overflow="fold"), *figures], rows)
    for out, pictures in encoded.items():
        typer.echo(f"{out}: frames {pictures}")
