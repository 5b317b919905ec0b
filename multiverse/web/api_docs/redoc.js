// Starts ReDoc: without its search, which would need a worker, and with fonts of the system.
const system = "system-ui, sans-serif";
const theme = { typography: { fontFamily: system, headings: { fontFamily: system } } };
window.Redoc.init("/openapi.json", { disableSearch: true, hideLogo: true, theme }, document.getElementById("api"));
