"""Readers of face data sets in the layouts they are distributed in. Nothing is downloaded.

Every reader gives an `ImageList` of what is usable and reports the rest; `strict` raises instead.
"""

from facekernels.data.readers.affectnet import read_affectnet
from facekernels.data.readers.ages import read_age_gender, read_clap
from facekernels.data.readers.celeba import read_celeba
from facekernels.data.readers.ferplus import read_ferplus
from facekernels.data.readers.identities import read_identities
from facekernels.data.readers.rafdb import read_rafdb
from facekernels.data.readers.recordio import read_recordio
from facekernels.data.readers.verification_bin import read_verification_bin

__all__ = [
    "read_affectnet",
    "read_age_gender",
    "read_celeba",
    "read_clap",
    "read_ferplus",
    "read_identities",
    "read_rafdb",
    "read_recordio",
    "read_verification_bin",
]
