"""`harmonyray report`: a run, or several side by side, as one HTML file that needs nothing else, and the curves as pictures.

A report reads what a run has recorded and changes nothing of it. What a model wrote is data here: it travels as compressed JSON
and reaches the page as text nodes. Nothing is imported here: the command line looks at its arguments first (`arguments`), and
the work is `reporting`.
"""
