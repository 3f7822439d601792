"""cnnray: folders of images into trained, served vision models, on a laptop or a Ray cluster.

Importing the package does no work and loads neither torch, ray nor faiss; import from its modules.
"""

__version__ = "0.1.0"
