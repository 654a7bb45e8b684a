"""Use of a trained model outside training: evaluate, predict, embed, convert and export."""
