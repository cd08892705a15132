"""`vitrail completion`: shell completion scripts, and the candidates that they ask for."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from vitrail.cli.syntax.arguments import read
from vitrail.cli.syntax.verb import Verb
from vitrail.errors import choose

SCRIPTS = {
    "bash": """_vitrail() {
    local IFS=$'\\n'
    COMPREPLY=($("$1" completion --candidates "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
    [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *. ]] && compopt -o nospace 2>/dev/null
    return 0
}
complete -o default -F _vitrail vitrail
""",
    "zsh": """#compdef vitrail
_vitrail() {
    local -a candidates
    candidates=("${(@f)$("${words[1]}" completion --candidates "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    if [[ -n "${candidates[1]}" ]]; then
        compadd -S '' -- ${(M)candidates:#*.}
        compadd -- ${candidates:#*.}
    else
        _files
    fi
}
if [[ "${funcstack[1]}" == _vitrail ]]; then _vitrail "$@"; else compdef _vitrail vitrail; fi
""",
    "fish": """function __vitrail_candidates
    set -l words (commandline -opc) (commandline -ct)
    $words[1] completion --candidates $words[2..-1] 2>/dev/null
end
complete -c vitrail -a '(__vitrail_candidates)'
""",
}


@dataclass
class Completion:
    """Print a completion script: commands, flags, keys of recipes, models, runs and recipes.

    vitrail completion bash > ~/.local/share/bash-completion/completions/vitrail
    vitrail completion zsh > ~/.zfunc/_vitrail
    vitrail completion fish > ~/.config/fish/completions/vitrail.fish
    """

    shell: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SHELL")]
    """bash, zsh or fish."""


def completion(words: list[str]) -> None:
    if words[:1] == ["--candidates"]:
        from vitrail.cli.syntax.candidates import candidates

        print("\n".join(candidates(words[1:])))
        return
    given, _ = read(VERB, words)
    print(SCRIPTS[choose(given.shell, tuple(SCRIPTS), "shell")], end="")


VERB = Verb("completion", Completion, completion)
