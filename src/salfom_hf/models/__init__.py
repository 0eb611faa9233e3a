"""The networks and their processor, as transformers lays models out."""
