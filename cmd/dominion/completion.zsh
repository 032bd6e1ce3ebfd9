#compdef dominion
# Completion of dominion for zsh.

_dominion() {
	local line out comp
	local -i directive
	local -a before completions shown spacing
	before=("${(@Q)words[1,CURRENT-1]}")
	out=$("${before[1]/#\~/$HOME}" __complete "${(@)before[2,-1]}" "${(Q)IPREFIX}${(Q)PREFIX}" 2>/dev/null) || return 1
	line=${${(f)out}[-1]#:}
	[[ $line == <-> ]] || return 1
	directive=$line
	((directive & 1)) && return 1
	for line in "${(@f)out}"; do
		[[ -n $line && $line != :* && $line != _activeHelp_* ]] || continue
		comp=${line%%$'\t'*}
		completions+=("$comp")
		if [[ $line == *$'\t'* ]]; then
			shown+=("$comp  -- ${line#*$'\t'}")
		else
			shown+=("$comp")
		fi
	done
	((directive & 2)) && spacing=(-S '')
	if ((${#completions})); then
		compadd -l -d shown "${spacing[@]}" -a completions
	elif ! ((directive & 4)); then
		_files
	fi
}

if [[ $funcstack[1] == _dominion ]]; then
	_dominion
else
	compdef _dominion dominion
fi
