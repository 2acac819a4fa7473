"""Clustering of a nearest-neighbour graph by other methods, behind one interface.

Each is a dataclass of settings with ``cluster(idx, sim) -> labels``; GCN-V is trained first and
also takes the features.
"""

from facekernels.systems.ain.linkage.peers.chinese_whispers import ChineseWhispers
from facekernels.systems.ain.linkage.peers.dbscan import NeighborDBSCAN
from facekernels.systems.ain.linkage.peers.gcn_v import GCNV
from facekernels.systems.ain.linkage.peers.infomap import Infomap
from facekernels.systems.ain.linkage.peers.threshold import ThresholdComponents

__all__ = ["GCNV", "ChineseWhispers", "Infomap", "NeighborDBSCAN", "ThresholdComponents"]
