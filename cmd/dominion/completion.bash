# Completion of dominion for bash 4 or newer; it needs no other package.

_dominion() {
	local line=${COMP_LINE:0:COMP_POINT} word= quote= c i in=0 cut=0
	local -a words=()
	# The words as the shell would see them; cut is where in the last one the part begins
	# that bash replaces: behind its quote, or behind a character at which it breaks words.
	for ((i = 0; i < ${#line}; i++)); do
		c=${line:i:1}
		case $quote$c in
		"'" | '"') quote=$c in=1 cut=${#word} ;;
		"''" | '""') quote= ;;
		"'"*) word+=$c ;;
		'"\') ((++i)) && word+=${line:i:1} ;;
		'"'*) word+=$c ;;
		'\') ((++i)) && word+=${line:i:1} in=1 ;;
		' ' | $'\t' | $'\n')
			((in)) && words+=("$word")
			word= in=0 cut=0
			;;
		*)
			word+=$c in=1
			[[ $COMP_WORDBREAKS == *"$c"* ]] && cut=${#word}
			[[ $c == @ && $cut == ${#word} ]] && ((cut--)) # which begins with it
			;;
		esac
	done
	local program=${words[0]:-dominion} out directive comp
	[[ $program == '~'* ]] && program=$HOME${program:1}
	out=$("$program" __completeNoDesc "${words[@]:1}" "$word" 2>/dev/null) || return
	directive=${out##*$'\n'}
	directive=${directive#:}
	[[ $directive =~ ^[0-9]+$ ]] && ! ((directive & 1)) || return
	((directive & 2)) && compopt -o nospace
	COMPREPLY=()
	while IFS= read -r comp; do
		[[ $comp == "$word"* && $comp != :* && $comp != _activeHelp_* ]] || continue
		comp=${comp:cut}
		[[ $quote ]] || printf -v comp %q "$comp"
		[[ $comp == "''" ]] || COMPREPLY+=("$comp")
	done <<<"$out"
	((${#COMPREPLY[@]} || directive & 4)) || compopt -o default
}

complete -F _dominion dominion
