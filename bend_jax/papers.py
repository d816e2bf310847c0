"""stub"""

DOCUMENTS = {}
