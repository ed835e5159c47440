"""Is this softmax cross-entropy gradient right?

Nothing heavy is imported here: ``gradcheck --help`` must answer at once.
"""

__version__ = "0.1.0"
