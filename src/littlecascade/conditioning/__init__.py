"""What conditions the cascade: prompts and pictures turned into the tensors that its stages read."""
