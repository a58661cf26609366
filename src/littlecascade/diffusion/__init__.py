"""Diffusion in terms of logSNR: schedule, process, loss weights, guidance and samplers. It knows no model."""
