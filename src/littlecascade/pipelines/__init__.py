"""The networks at work together: text to pictures, pictures to latents and back."""
