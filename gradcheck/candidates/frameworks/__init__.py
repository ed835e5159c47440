"""Frameworks whose own cross-entropy, or a loss of the user's in it, is a candidate: one file each, run in a child.

A file is named after its package, which is imported there only, and defines `implementation(target, device)`: target is
MODULE:FUNCTION or PATH.py:FUNCTION, or None for the framework's own. What it returns answers as
`gradcheck.candidates._answers` says. Logits come in the chosen format, and the backward pass is the framework's.

A loss of the user's own takes logits (N, k) and labels, and by keyword those loss options that its signature names; it
returns the loss that `--loss` describes, as a number, or one for each row, of which sum or mean is taken here.
"""
