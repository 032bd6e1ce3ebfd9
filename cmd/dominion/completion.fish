# Completion of dominion for fish.

function __dominion_ask
    set -l words (commandline -opc)
    set -l word (commandline -ct)
    set -l quote (string sub -l 1 -- $word)
    if test "$quote" = "'" -o "$quote" = '"'
        set word (string sub -s 2 -- $word)
    else
        set word (string unescape -- $word)
    end
    set -l out ($words[1] __complete $words[2..-1] "$word" 2>/dev/null)
    or return 1
    set -l directive (string replace : '' -- $out[-1])
    string match -qr '^[0-9]+$' -- $directive
    or return 1
    test (math "bitand($directive, 1)") = 0
    or return 1
    set -g __dominion_directive $directive
    set -g __dominion_found
    for line in $out[1..-2]
        string match -q '_activeHelp_*' -- $line
        or set -a __dominion_found $line
    end
    return 0
end

# Whether files are to be completed: nothing else was found, and files are wanted.
function __dominion_files
    __dominion_ask
    and test (count $__dominion_found) = 0
    and test (math "bitand($__dominion_directive, 4)") = 0
end

function __dominion_words
    __dominion_ask
    and string join \n -- $__dominion_found
end

complete -c dominion -e
complete -c dominion -f -a '(__dominion_words)'
complete -c dominion -n __dominion_files -F
