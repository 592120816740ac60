"""Words of messages."""


def counted(number: int, noun: str) -> str:
    """``1 image``, ``2 images``, ``10,000 classes``, ``3 entries``."""
    if number != 1 and noun.endswith('y') and noun[-2:-1] not in tuple('aeiou'):
        noun = f'{noun[:-1]}ies'
    elif number != 1:
        noun += 'es' if noun.endswith(('s', 'x', 'ch', 'sh')) else 's'
    return f'{number:,} {noun}' if number >= 10_000 else f'{number} {noun}'
