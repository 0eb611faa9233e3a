"""Scores of saliency maps as an `evaluate` metric: a thin layer over `salfom_hf.metrics`."""

import datasets
import evaluate
import numpy as np
import torch

from salfom_hf import metrics as scores

DESCRIPTION = """
How well saliency maps predict where people looked: AUC-Judd, shuffled AUC, NSS, CC, SIM, KLD and information gain.
"""

USAGE = """
Args:
    predictions: saliency maps, a list of (height, width) arrays of any sizes and scale.
    densities: fixation densities of the same sizes, on any scale; needed for "cc", "sim" and "kldiv".
    fixations: fixation maps of the same sizes, fixated where above 0; needed for the other metrics.
    metrics: names among "auc_judd", "auc_shuffled", "auc_shuffled_exact", "nss", "cc", "sim", "kldiv" and
        "information_gain". By default all that the given arguments allow.
    other: for both kinds of shuffled AUC, the number of other frames' fixations per pixel: one (height, width) array
        for all maps, or a list with one per map.
    prior: for "information_gain", what the prediction has to beat, such as a centre bias; given as `other` is.
    seed: decides which negatives "auc_shuffled" draws.

Returns:
    One entry per metric, the mean over the maps where it is defined (NaN if there are none); "per_map", the values of
    each metric in the order of the maps, NaN where undefined; "undefined", how many those are. Undefined are all
    metrics of a frame that is given without fixations, and those with the density where it is empty or constant. A
    constant or empty prediction counts as chance.

Raises:
    ValueError: something is missing or sizes differ; a prediction holds NaN or infinity (the error gives its number,
        counted from 0).
"""

CITATION = """
@article{bylinskii2019evaluation,
  title={What Do Different Evaluation Metrics Tell Us About Saliency Models?},
  author={Bylinskii, Zoya and Judd, Tilke and Oliva, Aude and Torralba, Antonio and Durand, Fr{\\'e}do},
  journal={IEEE Transactions on Pattern Analysis and Machine Intelligence},
  volume={41},
  number={3},
  pages={740--757},
  year={2019}
}
"""

# What each metric is computed from, besides the prediction.
NEEDS = {
    "auc_judd": ("fixations",),
    "auc_shuffled": ("fixations", "other"),
    "auc_shuffled_exact": ("fixations", "other"),
    "nss": ("fixations",),
    "cc": ("densities",),
    "sim": ("densities",),
    "kldiv": ("densities",),
    "information_gain": ("fixations", "prior"),
}
OPTIONS = {"auc_shuffled_exact": {"variant": "exact"}}
# float32 keeps any map's order, and halves what is written to disk.
MAP = datasets.Sequence(datasets.Sequence(datasets.Value("float32")))


class SaliencyMetrics(evaluate.Metric):
    """Mean scores of saliency maps, each map's own, and how many are undefined."""

    def _info(self):
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=USAGE,
            features=datasets.Features({"predictions": MAP, "densities": MAP, "fixations": MAP}),
        )

    def compute(self, *, predictions=None, densities=None, fixations=None, **kwargs):
        """See the module's `inputs_description`."""
        return super().compute(predictions=predictions, densities=densities, fixations=fixations, **kwargs)

    def add_batch(self, *, predictions=None, densities=None, fixations=None, **kwargs):
        """Maps to score at the next `compute`; densities or fixations may be left out of all batches."""
        if predictions is None:
            raise ValueError("There are no predictions: give the saliency maps as predictions=[…].")
        columns = {"predictions": predictions, "densities": densities, "fixations": fixations}
        for name, maps in columns.items():
            if maps is not None and len(maps) != len(predictions):
                raise ValueError(f"There are {len(predictions)} predictions but {len(maps)} {name}; give one per map.")
        columns = {
            # The columns are stored as float32, which booleans and integers are refused for.
            name: [None if maps is None else np.asarray(maps[index], np.float32) for index in range(len(predictions))]
            for name, maps in columns.items()
        }
        super().add_batch(**columns, **kwargs)

    def add(self, *, prediction=None, density=None, fixations=None, **kwargs):
        """One map to score at the next `compute`."""
        self.add_batch(
            predictions=None if prediction is None else [prediction],
            densities=None if density is None else [density],
            fixations=None if fixations is None else [fixations],
            **kwargs,
        )

    def _compute(self, predictions, densities, fixations, metrics=None, other=None, prior=None, seed=0):
        given = {
            "densities": _per_map("densities", densities, predictions),
            "fixations": _per_map("fixations", fixations, predictions),
            "other": _per_map("other", other, predictions),
            "prior": _per_map("prior", prior, predictions),
        }
        if metrics is None:
            metrics = [name for name, needs in NEEDS.items() if all(given[need] is not None for need in needs)]
            if not metrics:
                raise ValueError("There is nothing to compare with: give densities, fixations or both.")
        for name in metrics:
            if name not in NEEDS:
                raise ValueError(f"There is no metric {name!r}; take some of {', '.join(NEEDS)}.")
            missing = [need for need in NEEDS[name] if given[need] is None]
            if missing:
                raise ValueError(f"{name} needs {' and '.join(missing)}.")
        generator = torch.Generator().manual_seed(seed)
        per_map = {name: [] for name in metrics}
        for index, saliency in enumerate(predictions):
            saliency = torch.tensor(saliency)
            fixated = given["fixations"] is None or np.any(np.asarray(given["fixations"][index]) > 0)
            for name in metrics:
                targets = [torch.as_tensor(np.asarray(given[need][index])) for need in NEEDS[name]]
                function = getattr(scores, name.removesuffix("_exact"))
                options = {"generator": generator} if name == "auc_shuffled" else OPTIONS.get(name, {})
                try:
                    value = scores.counted(function, saliency, *targets, **options).item()
                except ValueError as error:
                    raise ValueError(f"{name} of map {index}: {error}") from error
                per_map[name].append(value if fixated else float("nan"))
        return {
            **{name: torch.tensor(values, dtype=torch.float64).nanmean().item() for name, values in per_map.items()},
            "per_map": per_map,
            "undefined": {name: int(np.isnan(values).sum()) for name, values in per_map.items()},
        }


def _per_map(name, maps, predictions):
    """One array per prediction, from a list of them or a single array for all; None where nothing is given."""
    if maps is None or all(array is None for array in maps):
        return None
    if any(array is None for array in maps):
        raise ValueError(f"Some batches came with {name}, others without; give them for all maps or for none.")
    if np.ndim(maps[0]) == 1:
        return [maps] * len(predictions)
    if len(maps) != len(predictions):
        raise ValueError(f"There are {len(predictions)} predictions but {len(maps)} {name}; give one per map.")
    return maps
