"""Face clustering by a linkage network: from features to identities."""

from facekernels.systems.ain.linkage.clusterer import Clustering, FaceClusterer
from facekernels.systems.ain.linkage.distributed import sharded_knn_graph
from facekernels.systems.ain.linkage.model import GraphConvolution, LinkageGCN, PairAttention
from facekernels.systems.ain.linkage.pipeline import Pipeline
from facekernels.systems.ain.linkage.synthetic import synthetic_identities
from facekernels.systems.ain.linkage.task import LinkageBatch, LinkageData, LinkageTrainer

__all__ = [
    "Clustering",
    "FaceClusterer",
    "GraphConvolution",
    "LinkageBatch",
    "LinkageData",
    "LinkageGCN",
    "LinkageTrainer",
    "PairAttention",
    "Pipeline",
    "sharded_knn_graph",
    "synthetic_identities",
]
