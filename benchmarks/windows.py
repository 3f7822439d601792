"""One pass of a classifier turned fully convolutional against the classifier on every window of a picture.

    python benchmarks/windows.py [--rounds N]       about a minute

A picture of 640 x 480 px, windows of 32 px, four px apart, which is the network's own stride: 17,289 windows, in
batches of 256; same weights, same threads. In turn, medians. Last line, one JSON object:

    speedup            seconds of the windows over seconds of the pass
    largest_difference between both, of the classes' probabilities
    windows, windows_s, pass_s
"""

import argparse
import json
import statistics
import time

import torch

from cnnray.nn.windows import WINDOW, WindowNet, fully_convolutional, total_stride
from cnnray.ops.windows import cut_windows, plan_windows

BATCH = 256


@torch.inference_mode()
def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.manual_seed(0)
    network, image = WindowNet(11), torch.rand(3, 480, 640)
    network.train()(torch.rand(256, 3, WINDOW, WINDOW))
    whole = fully_convolutional(network, WINDOW)
    corners = plan_windows(480, 640, WINDOW, total_stride(network))

    def by_windows():
        return torch.cat([network(cut_windows(image, part, WINDOW)) for part in corners.split(BATCH)])

    def in_one_pass():
        return whole(image[None])[0].flatten(1).T

    difference = (by_windows().softmax(1) - in_one_pass().softmax(1)).abs().max()
    seconds = {by_windows: [], in_one_pass: []}
    for _ in range(args.rounds):
        for run, times in seconds.items():
            started = time.perf_counter()
            run()
            times.append(time.perf_counter() - started)
    slow, fast = (statistics.median(times) for times in seconds.values())
    answer = {
        "speedup": round(slow / fast, 1),
        "largest_difference": float(f"{difference:.3g}"),
        "windows": len(corners),
        "windows_s": round(slow, 3),
        "pass_s": round(fast, 4),
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
