"""Maps of a model as a column of a dataset, by `datasets.map`."""

import os
from typing import Any

from datasets import Features, Image, List

from ..data.samples import open_sample
from ..inference.predictor import SaliencyPredictor
from ..video.drawing import png_of, to_gray
from .methods import Model


class SaliencyColumn:
    """
    A function for `datasets.map` that gives each row of a gaze dataset, exported or not, the maps of its frames as the
    column `saliency`: `[{"path": name, "bytes": PNG}, …]`, one grey PNG file per frame, of the frame's size, from the
    map's minimum (0) to its maximum (255). The maps of one row at a time are in memory, if `writer_batch_size` is 1:
    by default, `datasets` collects those of 1000 rows. A frame that cannot be read is a VideoError.

    Args:
        name: of the model, as for `SaliencyPredictor.from_pretrained`; other processes load it again.
        options: `device`, `dtype`, `stride` and `batch_size`, as there.

    Example:

    ```python
    >>> from salfom_hf.data import load_export
    >>> from salfom_hf.evaluation.saliency_column import SaliencyColumn
    >>> column, dataset = SaliencyColumn("salfom"), load_export("shards", split="train")
    >>> dataset.map(column, features=column.features(dataset.features), num_proc=2, writer_batch_size=1)
    ```
    """

    def __init__(self, name: str | os.PathLike = "salfom", **options: Any):
        # It pickles as its weights' digest, so that `datasets` takes results from its cache only while they are true.
        self.model = Model(str(name), SaliencyPredictor.from_pretrained(name, **options))

    def features(self, features: Features) -> Features:
        """What the rows hold afterwards, for the argument `features` of `datasets.map`."""
        return Features({**features, "saliency": List(Image(decode=False))})

    def __call__(self, row: dict) -> dict[str, list[dict]]:
        sample, pictures = open_sample(row), []
        maps = self.model.maps(sample, range(sample.num_frames))
        for name, saliency in zip(sample.frame_names, maps, strict=True):
            pictures.append({"path": f"{name}.png", "bytes": png_of(to_gray(saliency))})
        return {"saliency": pictures}
