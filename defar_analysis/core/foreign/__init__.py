"""Other projects' models as checkpoints of ours: read safely, told apart by their keys, converted once."""
