"""Finetuning a pretrained network: strategies, few labels, small models, on converted weights."""
