"""What fits and what is fast: number formats, later quantisation, offloading and plans."""
