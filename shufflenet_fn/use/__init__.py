"""Use of a trained model outside training: export."""
