// Starts Swagger UI. Keys that are typed into it stay in the page: nothing is kept in the browser.
window.SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#api",
  deepLinking: true,
  validatorUrl: null,
  persistAuthorization: false,
});
