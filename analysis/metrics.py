"""Which metrics of a table a figure shows, and what a person calls them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdtune.report.table import headlines

if TYPE_CHECKING:
    import pandas as pd

ACCURACY = "test/accuracy"
MCA = "corruption/mca"
DISTANCE = "distance/median"
AGREEMENT = "teacher/agreement"  # on test images
IMAGES = "fit/images"
WORST = "masking/worst"  # of images right when clean, those that every attack within the radius leaves as they are
AUTOATTACK = "robust/autoattack"
GAP = "robust/gap"  # of the best epoch less that of the last: robust_overfitting.py
FALL, RISE, DOUBLE_DESCENT = "robust/fall", "robust/rise", "robust/double_descent"  # double_descent.py
FOOLED = "teacher/fooled"
# specialization.py: three measures, each with a rule of what is right under attack; made there are the last three.
SPECIALIZED, MOVED, COS_OUT = "specialization/best", "specialization/best@moved", "specialization/cos_out"
ORACLE, LABEL = "oracle/pgd20", "oracle/pgd20/label"
OUT_GAIN, IN_OVER_OUT = "specialization/cos_out_gain", "oracle/in_over_out"
RANKS = {
    f"spearman/{measure.partition('/')[2]}{'/label' if rule == LABEL else ''}": (measure, rule)
    for rule in (ORACLE, LABEL)
    for measure in (SPECIALIZED, MOVED, COS_OUT)
}
OTHER_WEIGHTS = {"last": "last epoch", "average": "mean weights"}  # of the same run, behind `of`
TITLES = {
    GAP: "Gap, best to last",
    FALL: "Fall after the first peak",
    RISE: "Rise, trough to end",
    DOUBLE_DESCENT: "Lesser of both",
    FOOLED: "Teacher fooled",
    SPECIALIZED: "Best correlation",
    "specialization/strong": "Best correlation, strong nodes",
    MOVED: "Best correlation, off the subspace",
    "specialization/cos_in": "Cosine, in",
    COS_OUT: "Cosine, out",
    OUT_GAIN: "Cosine, out, gained",
    ORACLE: "Agreement under attack",
    LABEL: "Old answer under attack",
    f"{ORACLE}@in": "Agreement, attack in",
    f"{ORACLE}@out": "Agreement, attack out",
    IN_OVER_OUT: "Agreement, in over out",
    "oracle/mismatch": "Old answer wrong",
    f"{ORACLE}@linf": "Agreement, l-infinity",
    f"{ORACLE}@linf/label": "Old answer, l-infinity",
    **{name: f"Spearman, {name.partition('/')[2].replace('/', ', ')}" for name in RANKS},
    "calibrated.temperature": "Temperature",
    "calibrated.alpha": "Weight of the teacher",
    ACCURACY: "Test accuracy",
    **dict.fromkeys(("test/nll", "nll"), "Negative log-likelihood"),
    **dict.fromkeys(("test/ece", "ece"), "Calibration error"),
    MCA: "Mean over corruptions",
    DISTANCE: "Distance to another answer, median",
    AGREEMENT: "Agreement with its teacher",
    IMAGES: "Training images",
    WORST: "Worst of all attacks",
    AUTOATTACK: "AutoAttack accuracy",
}
SHIFTED = {"cinic": "CINIC-10", "writers": "other writers"}
# Hendrycks and Dietterich 2019, by kind; further families of a table follow.
FAMILIES = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "gaussian_blur"),
    "weather": ("snow", "frost", "fog", "brightness", "spatter"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression", "saturate"),
}


@dataclass(frozen=True)
class Scale:
    """How numbers of a metric are written and drawn."""

    unit: str = "%"
    digits: int = 2  # decimals
    least: float = 1.0  # what an axis spans at least, so that chance does not fill it

    @property
    def of_differences(self) -> str:
        """The unit of a difference of two of them."""
        return "points" if self.unit == "%" else self.unit


SCALES = {
    GAP: Scale("points"),
    **dict.fromkeys((FALL, RISE, DOUBLE_DESCENT), Scale("points")),
    DISTANCE: Scale("pixel units", digits=4, least=0.01),
    "output/entropy": Scale("nats", digits=3, least=0.1),
    "output/confidence": Scale(least=0.1),
    **dict.fromkeys((SPECIALIZED, MOVED, "specialization/strong"), Scale("correlation", least=0.1)),
    **dict.fromkeys((COS_OUT, OUT_GAIN, "specialization/cos_in"), Scale("cosine", least=0.1)),
    IN_OVER_OUT: Scale("points"),
    **dict.fromkeys(RANKS, Scale("correlation", least=0.5)),
    "calibrated.temperature": Scale("", least=0.5),
    "calibrated.alpha": Scale("", least=0.1),
}
ENDINGS = {  # of any metric, as evaluators declare them
    "nll": Scale("nats", digits=3, least=0.01),
    "ece": Scale("points", least=0.1),
    "entropy": Scale("nats", digits=3, least=0.1),
    "smoothing": Scale("probability", digits=3, least=0.01),
    **dict.fromkeys(("images", "smoothed_only", "square_only", "transfer_only"), Scale("images")),
}
OF_OTHER = re.compile(r"^(val|last|average)/")  # images, weights: in the same unit


def scale(metric: str) -> Scale:
    name = OF_OTHER.sub("", metric).partition("@")[0].removesuffix("/unconditional")
    return SCALES.get(name) or ENDINGS.get(name.rpartition("/")[2]) or Scale()


def shifted(table: pd.DataFrame) -> list[str]:
    """Accuracy on shifted sets, in the order of the sweep."""
    return [name for name in headlines(table) if name.startswith("shift/")]


def attacked(table: pd.DataFrame) -> str:
    """The accuracy under PGD that stands for the sweep; the paper's where none was measured."""
    found = [name for name in headlines(table) if re.fullmatch(r"robust/pgd\d+(@[^/]+)?(/worst)?", name)]
    return found[0] if found else "robust/pgd20"


def robustness(table: pd.DataFrame) -> list[str]:
    """What stands for it: the accuracy under PGD, and the distance to another answer where that was measured."""
    return [attacked(table), *([DISTANCE] if DISTANCE in table and table[DISTANCE].notna().any() else [])]


def under_attack(table: pd.DataFrame, pgd: str) -> list[str]:
    """Accuracy, then what is said of robustness, from what believes most to what believes least, as far as measured."""
    names = [ACCURACY, pgd, WORST, AUTOATTACK, DISTANCE]
    return [name for name in names if name in table and table[name].notna().any()]


def steps(table: pd.DataFrame) -> list[str]:
    """That accuracy at every number of steps that was measured, in their order."""
    tail = re.sub(r"^robust/pgd\d+", "", attacked(table))
    counts = {
        int(m[1]) for name in table.columns if (m := re.fullmatch(rf"robust/pgd(\d+){re.escape(tail)}", str(name)))
    }
    return [f"robust/pgd{count}{tail}" for count in sorted(counts)]


def corruptions(table: pd.DataFrame) -> list[str]:
    """The mean over corruptions, then each family that was measured: noise, blur, weather, digital."""
    known = [f"corruption/{name}" for names in FAMILIES.values() for name in names]
    others = {"corruption/clean", "corruption/families", "corruption/published", "corruption/mca15", MCA}
    there = [str(name) for name in table.columns if str(name).startswith("corruption/") and str(name).count("/") == 1]
    found = [name for name in there if name.partition("@")[0] not in others and table[name].notna().any()]
    return [MCA, *sorted(found, key=lambda name: known.index(name) if name in known else len(known))]


def title(metric: str) -> str:
    """`robust/pgd20@step=0.03` as `PGD-20 accuracy, step 0.03`."""
    kind, _, name = metric.partition("/")
    if kind in OTHER_WEIGHTS:
        return f"{title(name)}, {OTHER_WEIGHTS[kind]}"
    if metric in TITLES:
        return TITLES[metric]
    if kind == "shift":
        return f"Accuracy, {SHIFTED.get(name, name)}" if name else "Accuracy under shift"
    if found := re.match(r"pgd(\d+)(?:@([^/]+))?(.*)", name):
        setting = f", {found[2].replace('=', ' ')}" if found[2] else ""
        return f"PGD-{found[1]} accuracy{setting}" + found[3].replace("/", ", ").replace("_", " ")
    return (name or kind).replace("_", " ").capitalize().replace("Jpeg", "JPEG")
