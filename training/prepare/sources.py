"""The sources by name: origin, licence, and the function that finds their files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from training.prepare.layouts import (
    covid19_radiography,
    covid_qu_ex,
    darwin,
    jsrt,
    montgomery,
    pneumothorax,
    qata_cov19,
    shenzhen,
)
from training.prepare.pair import Found

_KAGGLE = "terms on its Kaggle page"


@dataclass(frozen=True)
class Source:
    """One source.

    Attributes:
        title: Its name in the literature.
        license: Licence of images and masks for the manifest, or where to find the terms.
        find: Finds its pairs below a folder.
    """

    title: str
    license: str
    find: Callable[[Path], Found]


SOURCES: Mapping[str, Source] = {
    jsrt.SOURCE: Source(
        "JSRT with SCR masks",
        "images: terms of the JSRT database (Shiraishi et al. 2000); masks: terms of the SCR "
        "database (van Ginneken et al. 2006)",
        jsrt.find,
    ),
    qata_cov19.SOURCE: Source("QaTa-COV19", _KAGGLE, qata_cov19.find),
    covid19_radiography.SOURCE: Source(
        "COVID-19 Radiography Database", _KAGGLE, covid19_radiography.find
    ),
    pneumothorax.SOURCE: Source(
        "Chest X-ray Images with Pneumothorax Masks",
        f"{_KAGGLE} and of the SIIM-ACR challenge",
        pneumothorax.find,
    ),
    covid_qu_ex.SOURCE: Source("COVID-QU-Ex", _KAGGLE, covid_qu_ex.find),
    montgomery.SOURCE: Source(
        "Montgomery County",
        "NLM/NIH open release, attribution: Jaeger et al. IEEE TMI 2014;33(2):233, Candemir et "
        "al. IEEE TMI 2014;33(2):577",
        montgomery.find,
    ),
    shenzhen.SOURCE: Source(
        "Shenzhen",
        "images: NLM/NIH open release, attribution: Jaeger et al. IEEE TMI 2014;33(2):233; "
        f"masks: {_KAGGLE}",
        shenzhen.find,
    ),
    darwin.SOURCE: Source(
        "V7 COVID-19 X-ray data set",
        "masks: CC BY 4.0 (V7 Labs); images: CC BY 4.0 (Kermany et al. 2018) or as "
        "covid-chestxray-dataset states per image",
        darwin.find,
    ),
}
