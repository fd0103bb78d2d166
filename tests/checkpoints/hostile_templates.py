"""Chat templates that nobody wishes well, made from seeds: each ends in a text or in an error, within its bounds."""

import random


def hostile_template(seed):
    """(its kind, the template's text)."""
    draw = random.Random(seed)
    kind = sorted(KINDS)[seed % len(KINDS)]
    return kind, KINDS[kind](draw)


def _loops(draw):
    depth, size = draw.randint(2, 5), draw.choice([99, 999, 99_999])
    body = draw.choice(["", "x", "{{ loop.index }}", "{% if false %}y{% endif %}"])
    opening = "".join(f"{{% for i{n} in range({size}) %}}" for n in range(depth))
    return opening + body + "{% endfor %}" * depth


def _growing_text(draw):
    size = draw.choice([10**6, 9 * 10**8, 10**12, 10**18])
    return draw.choice(
        [
            f"{{{{ 'a' * {size} }}}}",
            f"{{% set t = ['a'] * {size} %}}{{{{ t | length }}}}",
            "{% set ns = namespace(t='a') %}{% for i in range(99) %}{% set ns.t = ns.t ~ ns.t %}{% endfor %}{{ ns.t }}",
            f"{{{{ messages[0].content * {size} }}}}",
            f"{{{{ 'x' | center({size}) }}}}",
            f"{{{{ '%{size}s' | format('x') }}}}",
            f"{{{{ '{{:>{size}}}'.format('x') }}}}",
            f"{{{{ 'x'.ljust({size}) | length }}}}",
            f"{{% for i in range(99999) %}}{{{{ 'ab' * {draw.choice([99, 99_999])} }}}}{{% endfor %}}",
        ]
    )


def _constants(draw):
    big = draw.choice(["9**(9**9)", "(2**99999)**9999", "10**(10**8)", "7**(7**(7**7))", "(9**99999) % 7"])
    return draw.choice([f"{{{{ {big} }}}}", f"{{% if {big} > 1 %}}x{{% endif %}}", f"{{% set x = {big} %}}ok"])


def _recursion(draw):
    return draw.choice(
        [
            "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
            "{% macro f(n) %}{{ f(n + 1) ~ f(n + 1) }}{% endmacro %}{{ f(0) }}",
            "{% macro f(n) %}{% if n %}{{ f(n - 1) ~ f(n - 1) }}{% endif %}x{% endmacro %}{{ f(90) }}",
            "{% set l = [[]] %}{% for x in l recursive %}{{ loop(l) }}{% endfor %}",
            "{% for x in messages recursive %}{{ loop(messages) }}{% endfor %}",
            "{% block a %}{{ self.a() }}{% endblock %}",
            "{% macro f() %}{{ caller() }}{% endmacro %}{% call f() %}{{ f() }}{% endcall %}",
        ]
    )


def _dunders(draw):
    value = draw.choice(
        ["''", "messages", "cycler", "lipsum", "namespace", "raise_exception", "strftime_now", "joiner"]
    )
    way = draw.choice(
        [
            ".__class__.__mro__[1].__subclasses__()",
            ".__init__.__globals__['os'].system('true')",
            "['__class__']['__base__']",
            " | attr('__class__') | attr('__mro__')",
            ".__globals__.sys.modules",
            ".__code__.co_consts",
            ".gi_frame.f_back.f_globals",
            ".format.__self__",
        ]
    )
    return "{{ " + value + way + " }}"


def _formats(draw):
    return draw.choice(
        [
            "{{ '{0.__class__.__mro__}'.format(messages) }}",
            "{{ '{0.__init__.__globals__[os]}'.format(cycler) }}",
            "{{ '{m[0].__class__}'.format_map({'m': messages}) }}",
            "{{ '%(x)s' % {'x': messages.__class__} }}",
            "{{ ('{' * 9999) | format(1) }}",
            "{{ strftime_now('%Y' * 99999) | length }}",
            "{{ strftime_now('%' ~ 'c' * 999) }}",
            "{{ 'a'.encode('utf-8').hex() * 99 }}",
            "{{ ('%0' ~ '9' * 9 ~ 'd') % 1 }}",
        ]
    )


def _others(draw):
    name = draw.choice(["'/etc/passwd'", "'x'", "messages", "none", "['a', 'b']"])
    return draw.choice(
        [
            f"{{% include {name} %}}",
            f"{{% import {name} as x %}}{{{{ x }}}}",
            f"{{% from {name} import y %}}",
            f"{{% extends {name} %}}",
            f"{{% include {name} ignore missing %}}ok",
        ]
    )


def _joins(draw):
    return draw.choice(
        [
            "{{ range(99999) | map('string') | join('" + "x" * draw.choice([9, 9999]) + "') }}",
            "{% set c = cycler('a', 'b') %}{% for i in range(99999) %}{{ c.next() * 9999 }}{% endfor %}",
            "{{ lipsum(n=99999, min=9999, max=99999) }}",
            "{{ range(99999) | batch(1) | list | tojson | length }}",
            "{% for i in range(9999) %}{{ range(9999) | sum }}{% endfor %}",
            "{{ (range(99999) | list) * 9999 | length }}",
            "{{ ('a' * 99999) | wordwrap(1) }}",
            "{{ ('a ' * 999999) | title | upper | reverse | urlize }}",
            "{{ range(99999) | sort | unique | groupby('real') | list | length }}",
        ]
    )


def _nesting(draw):
    depth = draw.choice([50, 500, 5000, 50_000])
    return draw.choice(
        [
            "{{ " + "(" * depth + "1" + ")" * depth + " }}",
            "{{ " + "[" * depth + "]" * depth + " }}",
            "{% if 1 %}" * depth + "x" + "{% endif %}" * depth,
            "{% for i in [1] %}" * depth + "x" + "{% endfor %}" * depth,
            "{{ " + "-" * depth + "1 }}",
            "{{ " + "not " * depth + "1 }}",
            "{{ messages" + "[0]" * depth + " }}",
            "{{ 'a'" + " ~ 'a'" * depth + " }}",
            "{{ 1" + " + 1" * depth + " }}",
            "{{ x" + " | upper" * depth + " }}",
            "{{ " + "{'a': " * depth + "1" + "}" * depth + " }}",
            "{% macro f() %}" * depth + "{% endmacro %}" * depth,
        ]
    )


def _literals(draw):
    size = draw.choice([4301, 99_999, 400_000, 600_000])
    return draw.choice(
        [
            "{{ " + "9" * size + " }}",
            "{{ 1e" + "9" * min(size, 5000) + " }}",
            "{{ '" + "x" * size + "' }}",
            "x" * size,
            "{#" + "x" * size,
            "{{ " + "x" * size + " }}",
            "{{ 0." + "1" * size + " }}",
            "{{ 0x" + "f" * size + " }}",
            "{% raw %}" + "{{" * (size // 2),
        ]
    )


def _controls(draw):
    return draw.choice(
        [
            "{% break %}",
            "{% continue %}x",
            "{% for i in range(99999) %}{% for j in range(99999) %}{% continue %}{% endfor %}{% endfor %}",
            "{% for i in range(9) %}{% break %}{% endfor %}{% break %}",
            "{% generation %}{% generation %}x{% endgeneration %}",
            "{% endfor %}",
            "{% do messages.append(1) %}",
            "{% set messages = [] %}{{ messages.append(messages) }}{{ messages | tojson }}",
            "{% autoescape true %}{{ '<' * 99999999 }}{% endautoescape %}",
            "{% filter upper %}" + "{{ 'a' * 99999999 }}" * 9 + "{% endfilter %}",
        ]
    )


def _json(draw):
    depth = draw.choice([99, 9999])
    return draw.choice(
        [
            "{{ range(99999) | list | tojson(indent=99999) }}",
            "{% set ns = namespace(x=[]) %}{% for i in range(" + str(depth) + ") %}{% set ns.x = [ns.x] %}{% endfor %}"
            "{{ ns.x | tojson }}",
            "{% set ns = namespace(x=[1]) %}{% for i in range(99) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}"
            "{{ ns.x | tojson }}",
            "{{ messages | tojson(indent=999999999) }}",
            "{{ raise_exception | tojson }}",
            "{{ {messages: 1} | tojson }}",
            "{{ namespace() | tojson }}",
            "{{ (1e308 * 10) | tojson }}{{ undefined_name | tojson }}",
        ]
    )


def _calls(draw):
    return draw.choice(
        [
            "{{ nothing() }}",
            "{{ nothing.at.all }}",
            "{{ messages() }}",
            "{{ messages[0]() }}",
            "{{ x | no_such_filter }}",
            "{{ x is no_such_test }}",
            "{{ messages[99999] }}",
            "{{ messages.__len__ }}",
            "{{ none + 1 }}",
            "{{ 1 // 0 }}",
            "{{ [] | first | first }}",
            "{{ range(-1, 9**99) }}",
            "{{ dict(**messages) }}",
            "{{ namespace(messages) }}",
        ]
    )


def _refusals(draw):
    return draw.choice(
        [
            "{{ raise_exception('no') }}",
            "{{ raise_exception('x' * 99999999) }}",
            "{{ raise_exception(messages) }}",
            "{{ raise_exception() }}",
            "{{ raise_exception('\\x1b[2J\\x00\\u2028') }}",
            "{{ raise_exception('\\ud800') }}",
            "\\ud800{{ '\\ud800' }}",
            "{% for i in range(99999) %}{{ raise_exception(i) }}{% endfor %}",
        ]
    )


KINDS = {
    "calls": _calls,
    "constants": _constants,
    "controls": _controls,
    "dunders": _dunders,
    "formats": _formats,
    "growing text": _growing_text,
    "includes": _others,
    "joins": _joins,
    "json": _json,
    "literals": _literals,
    "loops": _loops,
    "nesting": _nesting,
    "recursion": _recursion,
    "refusals": _refusals,
}
