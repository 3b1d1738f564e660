"""Cost of recording attention: CPU time of a step of a sampler's transformer in C, with and without recording, measured alternately.

    python benchmarks/attention.py [--preset vggsound-5-resnet50] [--layers 4] [--precision int8] [--steps 60]

Weights are random, which does not affect the time. Half of a clip is in the KV cache. The result is the median over steps, on which other
load has little effect.
"""

import argparse
import time
from statistics import median

import torch

from unsilent import presets
from unsilent.models.transformer import Look, Transformer
from unsilent.speed.cpu_transformer import PackedBlock, PackedTransformer


@torch.inference_mode()
def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="vggsound-5-resnet50", choices=presets.names())
    parser.add_argument("--layers", type=int, help="layers of the transformer [default: all]")
    parser.add_argument("--precision", default="int8", choices=("float32", "bfloat16", "int8"))
    parser.add_argument("--takes", type=int, default=1)
    parser.add_argument("--steps", type=int, default=60, help="of each kind")
    options = parser.parse_args()
    torch.set_num_threads(1)
    sampler = presets.get(options.preset).sampler
    config = sampler.transformer.model_copy(update={"layers": options.layers} if options.layers else {})
    transformer = Transformer(config).eval()
    for number, block in enumerate(transformer.blocks):
        transformer.blocks[number] = PackedBlock(block, options.precision)
    packed, x = PackedTransformer(transformer, options.precision), torch.randn(options.takes, 1, config.width)
    known = sampler.clip.n_codes // 2
    looks = {"plain": None, "mean of all": Look(), "one head": Look(layer=0, head=0)}
    caches = {name: packed.cache(options.takes, known + options.steps + 1, x, look) for name, look in looks.items()}
    spent = {name: [] for name in looks}
    for cache in caches.values():
        packed(x.expand(-1, known, -1), cache)
        packed(x, cache)
    for _ in range(options.steps):
        for name, cache in caches.items():
            began = time.process_time()
            packed(x, cache)
            spent[name].append(time.process_time() - began)
    plain = median(spent["plain"])
    for name, times in spent.items():
        print(f"{name:12} {1e3 * median(times):8.2f} ms a step, {median(times) / plain:.3f} times the step without recording")


if __name__ == "__main__":
    main()
