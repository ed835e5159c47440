"""What other people send: whatever is in it, it is read, or refused with a sentence."""
