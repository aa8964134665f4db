"""A text that is an attack wherever a page takes it for more than text."""

HOSTILE = "</script><script>window.stolen = 1</script><img src=x onerror='window.stolen = 1'>\"'&{{ 7 * 7 }}"
