"""Models for the Hugging Face Hub: their cards, their folders, and sending them there."""
