"""What the tests of the training share: a tiny network, and the arguments of a short run."""

import json

TINY_DECODER = {
    "num_frames": 2,
    "decoder_hidden_size": 8,
    "decoder_channels": [4, 4, 4, 4, 4, 4],
    "fusion_channels": [4, 4],
    "tcfe_depths": [1, 1, 1],
    "tcfe_num_heads": [1, 1, 1],
}


def arguments(preset, data, output, *options, decoder=None, **settings):
    """
    A command line that trains on little.

    Args:
        preset, data, output: preset, folder of the data, folder of the run.
        options: further ones, as they are.
        decoder: settings of the network over the tiny ones; `False` leaves the preset's.
        settings: options by their names; lists have several values, and `True` is a flag.
    """
    line = [preset, "--data-dir", str(data), "--output-dir", str(output)]
    if decoder is not False:
        line += ["--model-config", json.dumps({**TINY_DECODER, **(decoder or {})})]
    for name, value in {"size": [32, 64], "batch_size": 1, "num_workers": 0, "log_every": 1, **settings}.items():
        line.append(f"--{name.replace('_', '-')}")
        if value is not True:
            line += [str(part) for part in (value if isinstance(value, list) else [value])]
    return [*line, *options]
