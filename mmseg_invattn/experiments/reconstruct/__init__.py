"""The first experiment of the paper: does the inverse of a trained attention block recover its input?"""
