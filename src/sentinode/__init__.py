"""sentinode: CNN classifiers for metastatic tissue in lymph-node patches, compared so that it can be believed."""

__version__ = "0.1.0"
