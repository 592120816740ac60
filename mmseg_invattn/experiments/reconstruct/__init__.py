"""The paper's first experiment: does an attention block that was trained return its input?"""
