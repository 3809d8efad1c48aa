"""Backgrounds + lesions + places -> labelled images."""
