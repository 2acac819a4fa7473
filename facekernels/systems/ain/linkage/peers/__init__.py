"""Clustering of a nearest-neighbour graph by other methods, behind one interface.

Each is a dataclass of settings with ``cluster(idx, sim) -> labels``; GCN-V and GCN-E are trained
first and also take the features.
"""

from facekernels.systems.ain.linkage.peers.chinese_whispers import ChineseWhispers
from facekernels.systems.ain.linkage.peers.dbscan import NeighborDBSCAN
from facekernels.systems.ain.linkage.peers.gcn_e import GCNE
from facekernels.systems.ain.linkage.peers.gcn_v import GCNV
from facekernels.systems.ain.linkage.peers.infomap import Infomap
from facekernels.systems.ain.linkage.peers.threshold import ThresholdComponents

__all__ = ["GCNE", "GCNV", "ChineseWhispers", "Infomap", "NeighborDBSCAN", "ThresholdComponents"]
