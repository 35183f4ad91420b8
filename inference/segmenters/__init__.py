"""What turns one scan into class probabilities; a model folder names its segmenter here."""
