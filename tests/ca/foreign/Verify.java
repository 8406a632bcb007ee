import java.io.FileInputStream;
import java.security.KeyStore;
import java.security.cert.CertPathValidator;
import java.security.cert.CertificateFactory;
import java.security.cert.PKIXParameters;
import java.security.cert.TrustAnchor;
import java.security.cert.X509Certificate;
import java.util.List;
import java.util.Set;
import javax.net.ssl.TrustManagerFactory;
import javax.net.ssl.X509TrustManager;

/** Verifies a chain by PKIX and as Java's TLS would: Verify.java ROOT CHAIN HOST server|client */
class Verify {
    public static void main(String[] arguments) throws Exception {
        var factory = CertificateFactory.getInstance("X.509");
        X509Certificate root;
        List<X509Certificate> chain;
        try (var file = new FileInputStream(arguments[0])) {
            root = (X509Certificate) factory.generateCertificate(file);
        }
        try (var file = new FileInputStream(arguments[1])) {
            chain = factory.generateCertificates(file).stream().map(X509Certificate.class::cast).toList();
        }
        var parameters = new PKIXParameters(Set.of(new TrustAnchor(root, null)));
        parameters.setRevocationEnabled(false);
        CertPathValidator.getInstance("PKIX").validate(factory.generateCertPath(chain), parameters);

        var store = KeyStore.getInstance(KeyStore.getDefaultType());
        store.load(null, null);
        store.setCertificateEntry("root", root);
        var managers = TrustManagerFactory.getInstance("PKIX");
        managers.init(store);
        var manager = (X509TrustManager) managers.getTrustManagers()[0];
        var array = chain.toArray(X509Certificate[]::new);
        if (arguments[3].equals("client")) {
            manager.checkClientTrusted(array, "UNKNOWN");
        } else {
            manager.checkServerTrusted(array, "UNKNOWN");
        }
        // Type 2 is a DNS name.
        if (!chain.get(0).getSubjectAlternativeNames().contains(List.of(2, arguments[2]))) {
            throw new Exception("no name " + arguments[2]);
        }
    }
}
