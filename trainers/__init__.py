"""Stores + Plan -> model folder. A trainer is a sequence of phases; the loop exists once.

Read in this order: `trainer` (what a trainer is), `phase` (one step of it), `supervised` (learning a
stage from labelled patches), `loop` (how a network phase is trained), `unet` (the default trainer).
"""
